package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fairlead/internal/control"
	"fairlead/internal/node"
)

const fileName = "fairlead.yaml"

// target is the system that a verb is about. All paths are absolute.
type target struct {
	File string
	Data string // of the node
}

// find returns the system named by -C, else the nearest upward from the working
// folder. With --data there need be no file.
func (a *app) find() (target, error) {
	t, err := a.findFile("")
	if e, usage := errors.AsType[*usageError](err); usage && e != errTwice && t.Data != "" {
		return t, nil
	}
	return t, err
}

// errTwice is the error of a system that is named in two ways.
var errTwice = &usageError{problem: "the system is named twice", hint: "leave out -C or the argument"}

// findFile is find for verbs that read the file. With an error it still returns
// the data folder if that is known and may hold a system that runs.
func (a *app) findFile(path string) (t target, err error) {
	switch {
	case path == "":
		path = a.file
	case a.file != "":
		return target{}, errTwice
	}
	if path == "" {
		t.File, err = upward()
	} else {
		t.File, err = fileOf(path)
	}
	if a.data != "" {
		data, dataErr := filepath.Abs(a.data)
		if dataErr != nil {
			return target{}, fmt.Errorf("find data folder: %w", dataErr)
		}
		t.Data = data
	}
	if t.File == "" {
		return t, err
	}
	beside := filepath.Join(filepath.Dir(t.File), control.DataDir)
	if t.Data == "" && (err == nil || isFolder(beside)) {
		t.Data = beside // also of a file that was lost: its system may run
	}
	return t, err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// noFile says that a folder holds no system.
func noFile(file string) error {
	return &usageError{problem: "no " + filepath.Base(file) + " in " + brief(filepath.Dir(file)), hint: "name the folder that holds it"}
}

// fileOf returns the file that path names, which may be its folder. The error of
// a folder without it comes with where the file would be.
func fileOf(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &usageError{problem: path + " does not exist", hint: "name the folder that holds " + fileName}
	case err != nil:
		return "", fmt.Errorf("find %s: %w", path, err)
	case info.IsDir():
		file := filepath.Join(abs, fileName)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return file, noFile(file)
		}
		return file, nil
	default:
		return abs, nil
	}
}

// upward returns the nearest fairlead.yaml.
func upward() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working folder: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		file := filepath.Join(at, fileName)
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file, nil
		}
		if at == filepath.Dir(at) {
			return "", &usageError{
				problem: "no " + fileName + " in " + dir + " or above it",
				hint:    "go to the system's folder, or name it: fairlead -C DIR ...",
			}
		}
	}
}

// dial connects to the node of the system.
func (a *app) dial() (*control.Client, error) {
	t, err := a.find()
	if err != nil {
		return nil, err
	}
	return t.dial()
}

func (t target) dial() (*control.Client, error) {
	c, err := control.Dial(t.Data)
	if e, ok := errors.AsType[*control.NotRunningError](err); ok {
		e.File = t.File
		if r := node.Running(t.Data); r != nil {
			return nil, &betweenError{r}
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// betweenError says that a node holds the data folder, but takes no verbs: it
// has just begun, or is ending.
type betweenError struct{ node *node.RunningError }

func (e *betweenError) Error() string {
	if e.node.Address == "" {
		return fmt.Sprintf("it is just starting: process %d", e.node.PID)
	}
	return fmt.Sprintf("it is stopping: process %d", e.node.PID)
}

// command returns how a person calls fairlead for this system from where they
// are, to be followed by a verb.
func (t target) command() string {
	s := "fairlead"
	if near, err := upward(); err != nil || near != t.File {
		name := filepath.Dir(t.File)
		if filepath.Base(t.File) != fileName {
			name = t.File
		}
		s += " -C " + control.QuoteWord(brief(name))
	}
	if t.Data != filepath.Join(filepath.Dir(t.File), control.DataDir) {
		s += " --data " + control.QuoteWord(brief(t.Data))
	}
	return s
}

// brief returns path as seen from the working folder where that is shorter.
func brief(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil || len(rel) >= len(path) {
		return path
	}
	return rel
}
