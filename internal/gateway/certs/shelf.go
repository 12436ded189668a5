package certs

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
)

// shelf shows certmagic a [Storage] as it wants it: with folders.
type shelf struct {
	of Storage

	mu   sync.Mutex // guards held
	held map[string]func() error
}

var _ certmagic.Storage = (*shelf)(nil)

func (s *shelf) Store(ctx context.Context, key string, value []byte) error {
	return s.of.Store(ctx, key, value)
}

func (s *shelf) Load(ctx context.Context, key string) ([]byte, error) {
	value, _, err := s.of.Load(ctx, key)
	return value, err
}

func (s *shelf) Delete(ctx context.Context, key string) error {
	below, err := s.List(ctx, key, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, k := range append(below, key) {
		errs = append(errs, s.of.Delete(ctx, k))
	}
	return errors.Join(errs...)
}

func (s *shelf) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List returns the keys below a folder; if not recursive, the first step below it,
// folders too.
func (s *shelf) List(ctx context.Context, folder string, recursive bool) ([]string, error) {
	keys, err := s.of.Keys(ctx)
	if err != nil {
		return nil, err
	}
	prefix := folder + "/"
	if folder == "" {
		prefix = ""
	}
	var below []string
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if !recursive {
			rest, _, _ = strings.Cut(rest, "/")
		}
		below = append(below, prefix+rest)
	}
	if below == nil {
		return nil, fs.ErrNotExist
	}
	slices.Sort(below)
	return slices.Compact(below), nil
}

func (s *shelf) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, stored, err := s.of.Load(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: stored, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return certmagic.KeyInfo{}, err
	}
	if _, err := s.List(ctx, key, false); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key}, nil
}

func (s *shelf) Lock(ctx context.Context, name string) error {
	unlock, err := s.of.Lock(ctx, name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = map[string]func() error{}
	}
	s.held[name] = unlock
	return nil
}

func (s *shelf) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	unlock := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if unlock == nil {
		return errors.New("unlock " + name + ": is not locked")
	}
	return unlock()
}
