package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// lookUp finds the program that a command names, as execvp would with the PATH
// of env and the folder dir. The error is for a person.
func lookUp(name, dir string, env []string) (string, error) {
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if info, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("working folder: %w", plain(err))
	} else if !info.IsDir() {
		return "", fmt.Errorf("working folder: %s is not a folder", dir)
	}
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		err := executable(path)
		if why, ok := errors.AsType[*fs.PathError](err); ok && path == name {
			err = why.Err // the path is the name
		}
		if err != nil {
			return "", fmt.Errorf("command %q: %w", name, plain(err))
		}
		return path, nil
	}
	path, set := variable(env, "PATH")
	if !set {
		return "", fmt.Errorf("command %q not found: there is no PATH", name)
	}
	var refused error
	for _, folder := range filepath.SplitList(path) {
		if !filepath.IsAbs(folder) {
			continue // a program from wherever one happens to be is nobody's intention
		}
		candidate := filepath.Join(folder, name)
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if refused == nil && !errors.Is(err, fs.ErrNotExist) {
			refused = plain(err)
		}
	}
	if refused != nil {
		return "", fmt.Errorf("command %q: %w", name, refused)
	}
	return "", fmt.Errorf("command %q not found in PATH", name)
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable", path)
	}
	return nil
}

// plain leaves out the name of the system call.
func plain(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	return err
}

// variable returns the last value of a variable, which is the one that counts.
func variable(env []string, name string) (value string, set bool) {
	for _, entry := range env {
		if n, v, ok := strings.Cut(entry, "="); ok && n == name {
			value, set = v, true
		}
	}
	return value, set
}
