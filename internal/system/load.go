package system

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"fairlead/internal/system/document"
	"fairlead/internal/system/wording"
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
	// Before is what the same file was when it was read last, nil if it was not. It is
	// left as it is, and makes no difference but in time: what did not change is not
	// read again.
	Before *System
}

// EnvironmentError says that the file does not declare the environment that was
// asked for. It is no fault of the file.
type EnvironmentError struct {
	Name  string
	Known []string // those that it declares, sorted
}

func (e *EnvironmentError) Error() string { return "there is no environment " + wording.Quote(e.Name) }

// Advice says which one was meant, or which there are.
func (e *EnvironmentError) Advice() string {
	return wording.Suggest(e.Name, e.Known, "the file declares none: leave it out, or declare it under environments")
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
	var src bytes.Buffer
	src.Grow(int(min(info.Size(), document.MaxSize)) + bytes.MinRead)
	_, err = src.ReadFrom(io.LimitReader(f, document.MaxSize+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, fmt.Errorf("read system: %w", err)
	}
	sys, err := Parse(path, src.Bytes(), filepath.Dir(full), opts)
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
	file := absolute(dir, filepath.Base(name))
	if filepath.IsAbs(name) {
		file = filepath.Clean(name)
	}
	if before := opts.Before; before != nil && before.File == file && before.Dir == dir {
		if sys, ok := before.again(src, opts); ok {
			return sys, nil
		}
	}
	rec := newRecorder(name, src)
	doc := document.Read(src, rec.fault)
	if !hasSections(doc, rec) {
		return nil, rec.sorted()
	}
	base, environments := split(doc, rec)
	around := &surroundings{
		dir: dir, files: opts.Files, stored: opts.Files != nil, disk: map[string]trace{}, pairs: map[Certificate]string{},
	}
	if !around.stored {
		around.files = map[string][]byte{}
	}
	passes := []*reader{read(base, "", around, rec)}
	chosen := passes[0].sys
	var all []string
	for _, e := range environments {
		all = append(all, e.Key)
		rec.pass = e.Key
		merged := document.Merge(base, e, func(lost *document.Node) {
			rec.add(lost.KeyAt, lost.Path, removesNothing, lostAdvice(base, e, lost))
		})
		r := read(merged, e.Key, around, rec)
		if passes = append(passes, r); e.Key == opts.Environment {
			chosen = r.sys
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
	chosen.File, chosen.Source, chosen.Environments, chosen.Files = file, src, all, around.files
	if !around.stored {
		remember(chosen, doc, environments, passes)
	}
	return chosen, nil
}

// hasSections reports whether there is a document that can have sections.
func hasSections(doc *document.Node, rec *recorder) bool {
	switch {
	case doc == nil: // which was told
		return false
	case doc.Kind == document.Null:
		rec.add(document.Place{Line: 1, Column: 1}, "", emptyFile)
		return false
	case doc.Kind != document.Mapping:
		rec.add(doc.At, "", wrongType, "a map of sections", doc.Kind, "begin with system: NAME")
		return false
	}
	return true
}

// read reads one merged document.
func read(doc *document.Node, environment string, around *surroundings, rec *recorder) *reader {
	r := &reader{
		surroundings: around, rec: rec, sys: &System{Dir: around.dir, Environment: environment, flat: flatten(doc)},
		services: map[string]*document.Node{}, secrets: map[string]*document.Node{}, databases: map[string]*document.Node{},
		types: map[string]*document.Node{}, owners: map[string]string{}, meant: map[string]bool{},
	}
	r.read(doc)
	return r
}

// split takes the environments out of the document and returns those that can be
// merged.
func split(doc *document.Node, rec *recorder) (base *document.Node, environments []*document.Node) {
	r := &reader{rec: rec}
	without := *doc
	without.Items = slices.DeleteFunc(slices.Clone(doc.Items), func(m *document.Node) bool { return m.Key == "environments" })
	section := doc.Member("environments")
	if section == nil || section.Kind == document.Null {
		return &without, nil
	}
	if section.Kind != document.Mapping {
		r.wrong(section, "a map of environments by name", "")
		return &without, nil
	}
	const most = 32
	if len(section.Items) > most {
		rec.add(section.KeyAt, section.Path, tooMany, "32", len(section.Items), "")
		return &without, nil
	}
	for _, e := range section.Items {
		if !r.name(e.KeyAt, e.Path, e.Key) {
			continue
		}
		if e.Kind == document.Null {
			empty := *e
			empty.Kind = document.Mapping
			e = &empty
		}
		if e.Kind != document.Mapping {
			r.wrong(e, "a map of sections", "")
			continue
		}
		usable := *e
		usable.Items = slices.DeleteFunc(slices.Clone(e.Items), func(m *document.Node) bool {
			fixed := m.Key == "system" || m.Key == "environments"
			if fixed {
				rec.add(m.KeyAt, m.Path, fixedKey)
			}
			return fixed
		})
		environments = append(environments, &usable)
	}
	return &without, environments
}

// lostAdvice names what was probably meant by a null that removes nothing.
func lostAdvice(base, env, lost *document.Node) string {
	for env != nil && base != nil {
		var next *document.Node
		for _, m := range env.Items {
			if m == lost {
				return wording.Suggest(lost.Key, base.Keys(), "there is nothing to remove there")
			}
			if within(m, lost) {
				next = m
			}
		}
		if next == nil {
			break
		}
		base, env = base.Member(next.Key), next
	}
	return "there is nothing to remove there"
}

// within reports whether n is somewhere in tree.
func within(tree, n *document.Node) bool {
	return tree == n || slices.ContainsFunc(tree.Items, func(m *document.Node) bool { return within(m, n) })
}
