package system

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// FileName is the name of the file in a system's folder.
const FileName = "fairlead.yaml"

// Options say how a file is read. The zero value reads it as it stands.
type Options struct {
	// Environment is merged in, "" for none.
	Environment string
	// Files are the texts of the files that the document names, by their paths as it
	// writes them, as [System.Files] had them; those on the disk are not read then.
	// nil: the disk is read.
	Files map[string][]byte
}

// EnvironmentError says that the file does not declare the environment that was
// asked for. It is no fault of the file.
type EnvironmentError struct {
	Name  string
	Known []string // those that it declares, sorted
}

func (e *EnvironmentError) Error() string { return "there is no environment " + quote(e.Name) }

// Advice says which one was meant, or which there are.
func (e *EnvironmentError) Advice() string {
	return suggest(e.Name, e.Known, "the file declares none: leave it out, or declare it under environments")
}

// Load reads a system's file. path is the file, or the folder that holds it as
// fairlead.yaml. The error is [Findings] when the file is at fault, an
// [EnvironmentError] when it lacks the environment, and wraps [fs.ErrNotExist] when
// there is none. Findings name the file as path does.
func Load(path string, opts Options) (*System, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		dir := path
		path = filepath.Join(dir, FileName)
		if info, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("find %s in %s: %w", FileName, dir, fs.ErrNotExist)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find system: %w", err)
	}
	if !info.Mode().IsRegular() {
		// Opening a pipe would wait for its writer.
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find system: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read system: %w", err)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fmt.Errorf("read system: %w", err)
	}
	sys, err := Parse(path, src, filepath.Dir(full), opts)
	if err != nil {
		return nil, err
	}
	sys.File = full
	return sys, nil
}

// Parse is [Load] for text that was read already, as that of a stored revision. name
// stands in findings; dir is the absolute folder that relative paths start at. Parse
// keeps src, which must not be changed afterwards.
//
// The file as it stands and each of its environments are checked, whichever is
// chosen.
func Parse(name string, src []byte, dir string, opts Options) (*System, error) {
	rec := newRecorder(name, src)
	doc := document(src, rec)
	if doc == nil {
		return nil, rec.sorted()
	}
	file := absolute(dir, filepath.Base(name))
	if filepath.IsAbs(name) {
		file = filepath.Clean(name)
	}
	base, environments := split(doc, rec)
	files, stored := opts.Files, opts.Files != nil
	if !stored {
		files = map[string][]byte{}
	}
	chosen := read(base, "", dir, files, stored, rec)
	var all []string
	for _, e := range environments {
		all = append(all, e.key)
		rec.pass = e.key
		merged := merge(base, e, func(lost *node) {
			rec.add(lost.keyAt, lost.path, removesNothing, lostAdvice(base, e, lost))
		})
		if sys := read(merged, e.key, dir, files, stored, rec); e.key == opts.Environment {
			chosen = sys
		}
	}
	rec.pass = ""
	slices.Sort(all)
	if findings := rec.sorted(); len(findings) > 0 {
		return nil, findings
	}
	if opts.Environment != "" && !slices.Contains(all, opts.Environment) {
		return nil, &EnvironmentError{Name: opts.Environment, Known: all}
	}
	chosen.File, chosen.Source, chosen.Environments, chosen.Files = file, src, all, files
	return chosen, nil
}

// read reads one merged document.
func read(doc *node, environment, dir string, files map[string][]byte, stored bool, rec *recorder) *System {
	r := &reader{
		rec: rec, dir: dir, sys: &System{Dir: dir, Environment: environment, flat: flatten(doc)},
		services: map[string]*node{}, secrets: map[string]*node{}, databases: map[string]*node{},
		types: map[string]*node{}, files: files, stored: stored,
		owners: map[string]string{}, meant: map[string]bool{},
	}
	r.read(doc)
	return r.sys
}

// split takes the environments out of the document and returns those that can be
// merged.
func split(doc *node, rec *recorder) (base *node, environments []*node) {
	r := &reader{rec: rec}
	without := *doc
	without.items = slices.DeleteFunc(slices.Clone(doc.items), func(m *node) bool { return m.key == "environments" })
	section := doc.member("environments")
	if section == nil || section.kind == null {
		return &without, nil
	}
	if section.kind != mapping {
		r.wrong(section, "a map of environments by name", "")
		return &without, nil
	}
	const most = 32
	if len(section.items) > most {
		rec.add(section.keyAt, section.path, tooMany, "32", len(section.items), "")
		return &without, nil
	}
	for _, e := range section.items {
		if !r.name(e.keyAt, e.path, e.key) {
			continue
		}
		if e.kind == null {
			empty := *e
			empty.kind = mapping
			e = &empty
		}
		if e.kind != mapping {
			r.wrong(e, "a map of sections", "")
			continue
		}
		usable := *e
		usable.items = slices.DeleteFunc(slices.Clone(e.items), func(m *node) bool {
			fixed := m.key == "system" || m.key == "environments"
			if fixed {
				rec.add(m.keyAt, m.path, fixedKey)
			}
			return fixed
		})
		environments = append(environments, &usable)
	}
	return &without, environments
}

// lostAdvice names what was probably meant by a null that removes nothing.
func lostAdvice(base, env, lost *node) string {
	for env != nil && base != nil {
		var next *node
		for _, m := range env.items {
			if m == lost {
				return suggest(lost.key, base.keys(), "there is nothing to remove there")
			}
			if within(m, lost) {
				next = m
			}
		}
		if next == nil {
			break
		}
		base, env = base.member(next.key), next
	}
	return "there is nothing to remove there"
}

// within reports whether n is somewhere in tree.
func within(tree, n *node) bool {
	return tree == n || slices.ContainsFunc(tree.items, func(m *node) bool { return within(m, n) })
}
