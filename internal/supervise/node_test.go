package supervise

import (
	"context"
	"fmt"
	"os"
)

// nodeMain is a node that a test kills.
func nodeMain(dir string) int {
	s := New(Options{Dir: dir, Host: newHost(nil), NextID: ids()})
	if err := s.Start(context.Background()); err != nil {
		fmt.Println("error", err)
		return 1
	}
	if err := s.Launch(context.Background(), []Spec{httpSpec("fork", 1, "fork"), spec("hang", 1, "hang"), httpSpec("port", 2, "port")}); err != nil {
		fmt.Println("error", err)
		return 1
	}
	if err := s.Await(context.Background()); err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready", s.KeeperPID(), s.dataID)
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}
