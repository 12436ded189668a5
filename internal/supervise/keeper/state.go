package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"fairlead/internal/supervise/process"
)

// state is what the keeper writes down, so that the next node finds what is
// left when node and keeper were killed. Pids are only meant together with
// their start times and the boot id.
type state struct {
	Boot      string              `json:"boot"`
	DataID    string              `json:"data_id"`
	Keeper    Identity            `json:"keeper"`
	Instances map[string]Identity `json:"instances"`
}

func statePath(dir string) string { return filepath.Join(dir, "keeper.json") }

// record writes the state; keeper.mu is held. It is not synced: it tells of
// processes, which a loss of power ends as well.
func (k *keeper) record() {
	s := state{Boot: k.boot, DataID: k.hello.DataID, Instances: make(map[string]Identity, len(k.instances))}
	if self, err := process.Read(os.Getpid()); err == nil {
		s.Keeper = Identity{PID: self.PID, Start: self.Start}
	}
	for id, in := range k.instances {
		s.Instances[id] = in.process
	}
	b, err := json.Marshal(s)
	if err != nil {
		return
	}
	// A failure costs one of three ways to find left-overs.
	path := statePath(k.hello.Dir)
	if err := os.WriteFile(path+".new", b, 0o600); err == nil {
		_ = os.Rename(path+".new", path)
	}
}

// readState returns what the last keeper wrote. Without a file, or after
// another boot, there is nothing to find.
func readState(dir, boot string) (state, error) {
	b, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read what the last keeper left: %w", err)
	}
	s, err := parseState(b)
	if err != nil || s.Boot != boot {
		return state{}, nil //nolint:nilerr // a torn file tells nothing; the marks still do
	}
	return s, nil
}

func parseState(b []byte) (state, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("read what the last keeper left: %w", err)
	}
	return s, nil
}

// alive returns the process with that identity, if it still runs.
func (id Identity) alive() (process.Stat, bool) {
	if id.PID <= 1 {
		return process.Stat{}, false
	}
	s, err := process.Read(id.PID)
	return s, err == nil && s.Start == id.Start && !s.Dead()
}
