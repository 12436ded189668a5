package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogFileRotates(t *testing.T) {
	l := NewLogFile(filepath.Join(t.TempDir(), "logs", "fairlead.log"))
	l.limit = 100
	for i := range 60 {
		if _, err := fmt.Fprintf(l, "line %02d with some text\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(l.path + "*")
	if err != nil || len(files) != logOld+1 {
		t.Errorf("got %v, %v", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.Size() > 100 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Size(), err)
		}
	}
	last, err := os.ReadFile(l.path)
	if err != nil || !strings.HasSuffix(string(last), "line 59 with some text\n") {
		t.Errorf("the newest file ends with %q, %v", last, err)
	}
}
