package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fairlead/internal/control"
)

const fileName = "fairlead.yaml"

// target is the system that a verb is about. All paths are absolute.
type target struct {
	File string
	Data string // of the node
}

// find returns the system named by path, else by -C, else the nearest upward
// from the working folder.
func (a *app) find(path string) (target, error) {
	if path == "" {
		path = a.file
	} else if a.file != "" {
		return target{}, &usageError{problem: "the system is named twice: " + a.file + " and " + path, hint: "leave out one of them"}
	}
	var t target
	var err error
	if path == "" {
		t.File, err = upward()
	} else {
		t.File, err = fileOf(path)
	}
	if err != nil {
		if _, usage := errors.AsType[*usageError](err); !usage || a.data == "" {
			return target{}, err
		}
	}
	t.Data = a.data
	if t.Data == "" {
		t.Data = filepath.Join(filepath.Dir(t.File), control.DataDir)
	}
	if t.Data, err = filepath.Abs(t.Data); err != nil {
		return target{}, fmt.Errorf("find data folder: %w", err)
	}
	return t, nil
}

// fileOf returns the file that path names, which may be its folder.
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
		return filepath.Join(abs, fileName), nil
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
	t, err := a.find("")
	if err != nil {
		return nil, err
	}
	c, err := control.Dial(t.Data)
	if e, ok := errors.AsType[*control.NotRunningError](err); ok {
		e.File = t.File
	}
	if err != nil {
		return nil, err
	}
	return c, nil
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
