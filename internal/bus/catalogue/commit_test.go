package catalogue

import "testing"

func TestSmallGroupsAreStoredMessageByMessage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		memory bool
		group  int
		key    bool
		want   bool
	}{
		{"few, staged in memory", true, groupLeastMemory - 1, false, true},
		{"enough, staged in memory", true, groupLeastMemory, false, false},
		{"few, staged on the disk", false, groupLeastDisk - 1, false, true},
		{"enough, staged on the disk", false, groupLeastDisk, false, false},
		{"one with a key needs a batch", false, 1, true, false},
	} {
		group := make([]*entry, tt.group)
		for i := range group {
			group[i] = &entry{}
		}
		if tt.key {
			group[0].marker = Keys + "key.subject"
		}
		c := &Committer{inMemory: func() bool { return tt.memory }}
		if got := c.small(group); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}
