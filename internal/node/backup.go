package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/bus/backup"
	"fairlead/internal/bus/catalogue"
	"fairlead/internal/bus/delivery"
	"fairlead/internal/control"
)

// backupBus writes all that the bus keeps into a file, while everything goes on.
func (n *Node) backupBus(ctx context.Context, req control.BackupRequest, tell func(control.Event)) (control.Backup, error) {
	var none control.Backup
	sys := n.System()
	if sys.Bus.Server != nil {
		return none, &control.Error{
			Code: control.CodeConflict, Message: "the bus keeps its data on a server elsewhere",
			Hint: "back it up there: nats account backup",
		}
	}
	if !filepath.IsAbs(req.File) {
		return none, &control.Error{Code: control.CodeBadRequest, Message: "the file of a backup is named by an absolute path"}
	}
	if _, err := os.Lstat(req.File); err == nil {
		return none, fileThere(req.File)
	}
	// It has its name only once it is whole.
	dir := filepath.Dir(req.File)
	partial, err := os.CreateTemp(dir, "."+filepath.Base(req.File)+".*")
	if errors.Is(err, fs.ErrNotExist) {
		return none, &control.Error{Code: control.CodeNotFound, Message: "there is no folder " + dir, Hint: "mkdir -p " + control.QuoteWord(dir)}
	}
	if err != nil {
		return none, fmt.Errorf("write %s: %w", req.File, pathless(err))
	}
	defer func() { _ = os.Remove(partial.Name()) }() // it has another name if all went well
	out := bufio.NewWriterSize(partial, 1<<20)
	wrote, err := backup.Write(ctx, n.operator, out, sys.Name, time.Now().Truncate(time.Second), func(p backup.Progress) {
		tell(control.Event{Time: time.Now(), Kind: control.EventInfo, Text: fmt.Sprintf("stream %d of %d: %s", p.Number, p.Of, streamWords(p.Stream))})
	})
	if err := errors.Join(err, out.Flush(), partial.Sync(), partial.Close()); err != nil {
		return none, err
	}
	if _, err := checkBackup(partial.Name()); err != nil {
		return none, err
	}
	if err := place(partial.Name(), req.File); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return none, fileThere(req.File)
		}
		return none, fmt.Errorf("back up: %w", err)
	}
	return backupOf(req.File, wrote)
}

// streamWords is what a stream is called where it is no queue's.
func streamWords(stream string) string {
	switch stream {
	case catalogue.DeadLetters:
		return "dead letters"
	case delivery.Exceeded:
		return "messages on their way to the dead letters"
	case "KV_" + stateBucket, "KV_" + certificatesBucket:
		return "fairlead's own state"
	}
	return stream
}

// pathless is an error without the path that it names.
func pathless(err error) error {
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		return of.Err
	}
	return err
}

func fileThere(path string) error {
	return &control.Error{Code: control.CodeConflict, Message: path + " exists", Hint: "name a file that does not exist yet"}
}

// place gives a file its name, which no other file has, and syncs that.
func place(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func checkBackup(path string) (backup.Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return backup.Content{}, fmt.Errorf("check backup: %w", err)
	}
	defer f.Close()
	return backup.Check(bufio.NewReaderSize(f, 1<<20))
}

func backupOf(path string, c backup.Content) (control.Backup, error) {
	info, err := os.Stat(path)
	if err != nil {
		return control.Backup{}, fmt.Errorf("look at backup: %w", err)
	}
	b := control.Backup{File: path, Size: info.Size(), System: c.System, Made: c.Made, Messages: c.Messages()}
	for _, s := range c.Streams {
		b.Streams = append(b.Streams, control.BackupStream{Name: s.Name, Messages: s.State.Messages, Bytes: s.State.Bytes, Consumers: s.State.Consumers})
	}
	return b, nil
}

// RestoreBus replaces what the bus of a data folder keeps by what is in a backup.
// The system must not run: the error is a [RunningError] if it does.
//
// The backup is read whole before anything is done. What was there is moved aside,
// to a folder beside it which the answer names; nothing is deleted. What fairlead
// itself remembers there (revisions, users of the bus, what was decided by hand) is
// not taken back to what it was, except where there is nothing: a user that was
// revoked since stays revoked, and no instance gets a number for the second time.
func RestoreBus(ctx context.Context, data, file string, tell func(string)) (control.Backup, error) {
	b, err := restoreBus(ctx, data, file, tell)
	if err != nil {
		return control.Backup{}, fmt.Errorf("restore the bus from %s: %w", file, err)
	}
	return b, nil
}

func restoreBus(ctx context.Context, data, file string, tell func(string)) (_ control.Backup, err error) {
	var none control.Backup
	if err := os.MkdirAll(data, 0o700); err != nil {
		return none, err
	}
	if err := owned(data); err != nil {
		return none, err
	}
	lock, err := lockData(ctx, data, tell)
	if err != nil {
		return none, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	content, err := checkBackup(file)
	if err != nil {
		return none, err
	}
	of := len(content.Streams)
	live, fresh := filepath.Join(data, "bus"), filepath.Join(data, "bus.restoring")
	if err := os.RemoveAll(fresh); err != nil { // of a restore that was cut off
		return none, err
	}
	f, err := os.Open(file)
	if err != nil {
		return none, err
	}
	defer f.Close()
	_, err = backup.Restore(ctx, bufio.NewReaderSize(f, 1<<20), fresh, func(p backup.Progress) {
		tell(fmt.Sprintf("stream %d of %d: %s, %d messages", p.Number, of, streamWords(p.Stream), p.State.Messages))
	})
	if err != nil {
		return none, err
	}
	if err := keepOwn(live, fresh); err != nil {
		return none, errors.Join(err, os.RemoveAll(fresh))
	}
	b, err := backupOf(file, content)
	if err != nil {
		return none, err
	}
	b.Before, err = exchange(live, fresh, live+".before-"+time.Now().UTC().Format("20060102T150405.000Z"))
	return b, err
}

// keepOwn puts what fairlead itself keeps in the store live in the place of what the
// store fresh has of it. Nobody has either open.
func keepOwn(live, fresh string) error {
	for _, bucket := range []string{stateBucket, certificatesBucket} {
		folder := filepath.Join("jetstream", "$G", "streams", "KV_"+bucket)
		from, to := filepath.Join(live, folder), filepath.Join(fresh, folder)
		_, err := os.Stat(from)
		there := !errors.Is(err, fs.ErrNotExist)
		if !there && bucket == stateBucket {
			continue // the backup's
		}
		if err := os.RemoveAll(to); err != nil {
			return fmt.Errorf("keep bucket %s: %w", bucket, err)
		}
		if !there {
			continue // the key that the backup's certificates need is not here
		}
		if err := copyTree(from, to); err != nil {
			return fmt.Errorf("keep bucket %s: %w", bucket, err)
		}
	}
	return nil
}

// copyTree copies a folder of files, and syncs the copies.
func copyTree(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
			return nil
		default:
			return syncDir(path) // of a file it is the same
		}
	})
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, syncDir(dir))
	}
	return errors.Join(err, syncDir(filepath.Dir(to)))
}

// exchange puts fresh in the place of live, and what was there in that of aside, which
// it returns; "" if there was nothing. At no moment is there no store.
func exchange(live, fresh, aside string) (string, error) {
	if _, err := os.Stat(live); errors.Is(err, fs.ErrNotExist) {
		return "", place(fresh, live)
	}
	if err := place(fresh, aside); err != nil {
		return "", err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, live, unix.RENAME_EXCHANGE); err != nil {
		return "", &os.LinkError{Op: "exchange", Old: aside, New: live, Err: err}
	}
	return aside, syncDir(filepath.Dir(live))
}
