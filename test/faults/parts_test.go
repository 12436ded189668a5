package faults_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"fairlead/internal/wire"
	"fairlead/service"
	_ "fairlead/service/sqlite" // the database of notes
	"fairlead/test/await"
)

// play is the main function of a service of the systems under test.
func play(part string, args []string) int {
	parts := map[string]func([]string) int{
		"mirror": mirror, "fork": fork, "lost": lost, "flood": flood, "silent": silent,
	}
	if run, ok := parts[part]; ok {
		return run(args)
	}
	setups := map[string]func(*service.Service) error{"clerk": clerk, "mortal": mortal, "notes": notes, "collector": collector}
	service.Main(setups[part])
	return 0
}

// terminated is closed when the process is asked to end.
func terminated() <-chan struct{} {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { <-asked; close(done) }()
	return done
}

func say(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	return 1
}

// mirror tells what reached it, without anything of ours between: it knows no
// package service.
func mirror([]string) int {
	end := terminated()
	nc, err := nats.Connect(os.Getenv(wire.EnvNATSURL), nats.Timeout(await.Patience), nats.UserInfo(os.Getenv(wire.EnvNATSUser), os.Getenv(wire.EnvNATSPass)),
		nats.CustomInboxPrefix(os.Getenv(wire.EnvNATSInbox)))
	if err != nil {
		return say("connect: %v", err)
	}
	defer nc.Close()
	show := func(m *nats.Msg) {
		b, err := json.Marshal(m.Header)
		if err == nil {
			err = m.Respond(b)
		}
		if err != nil {
			say("respond: %v", err)
		}
	}
	if _, err := nc.QueueSubscribe("mirror.headers", os.Getenv(wire.EnvGroup), show); err != nil {
		return say("subscribe: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv(wire.EnvPort))
	if err != nil {
		return say("listen: %v", err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(r.Header); err != nil {
			say("answer: %v", err)
		}
	}))
	<-end
	return 0
}

// clerk knows its user, and answers as much as it is asked to.
func clerk(s *service.Service) error {
	who := func(ctx context.Context) []string {
		user, ok := service.User(ctx)
		if !ok {
			return []string{}
		}
		return append([]string{user.Subject}, user.Roles...)
	}
	service.Answer(s, "clerk.who", func(ctx context.Context, _ struct{}) ([]string, error) { return who(ctx), nil })
	service.Answer(s, "clerk.size", func(_ context.Context, req struct{ Bytes int }) (string, error) {
		return strings.Repeat("x", req.Bytes), nil
	})
	s.HTTP("/who", func(w http.ResponseWriter, r *http.Request) error {
		return json.NewEncoder(w).Encode(who(r.Context()))
	})
	return nil
}

// mortal dies by SIGKILL in the middle of a request if it finds the file that
// the request names, and could remove it: one instance dies, once.
func mortal(s *service.Service) error {
	die := func(name string) {
		if name != "" && os.Remove(name) == nil {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	service.Answer(s, s.Name()+".ask", func(_ context.Context, req struct{ Poison string }) (string, error) {
		die(req.Poison)
		return s.Instance(), nil
	})
	s.HTTP("/mortal/whole", func(w http.ResponseWriter, r *http.Request) error {
		die(r.URL.Query().Get("poison"))
		_, err := io.WriteString(w, s.Instance())
		return err
	})
	s.HTTP("/mortal/half", func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Length", "1000")
		if _, err := io.WriteString(w, "the first half"); err != nil {
			return err
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		die(r.URL.Query().Get("poison"))
		return nil
	})
	return nil
}

// notes keeps notes in SQLite.
func notes(s *service.Service) error {
	db := s.Database("notes")
	type note struct{ Text string }
	add := func(ctx context.Context, n note) (int64, error) {
		var id int64
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return 0, fmt.Errorf("begin: %w", err)
		}
		defer tx.Rollback()
		if err := tx.QueryRowContext(ctx, "INSERT INTO notes (text) VALUES (?) RETURNING id", n.Text).Scan(&id); err != nil {
			return 0, fmt.Errorf("insert: %w", err)
		}
		return id, tx.Commit()
	}
	count := func(ctx context.Context) (int64, error) {
		var n int64
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return 0, fmt.Errorf("begin: %w", err)
		}
		defer tx.Rollback()
		return n, tx.QueryRowContext(ctx, "SELECT count(*) FROM notes").Scan(&n)
	}
	service.Answer(s, "notes.add", add)
	service.Answer(s, "notes.count", func(ctx context.Context, _ struct{}) (int64, error) { return count(ctx) })
	s.HTTP("POST /notes/http", func(w http.ResponseWriter, r *http.Request) error {
		id, err := add(r.Context(), note{"over HTTP"})
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(id)
	})
	return nil
}

// fork starts a child that leaves it: a session, an environment and a parent of
// its own. Both are deaf to SIGTERM. It listens once that child is there.
func fork(args []string) int {
	signal.Ignore(syscall.SIGTERM)
	between := exec.Command("/proc/self/exe", "part", "lost", args[0], "fork")
	between.Env = []string{"NOTHING=1"}
	between.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := between.Run(); err != nil {
		return say("fork: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv(wire.EnvPort))
	if err != nil {
		return say("listen: %v", err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getpid()) }))
	select {}
}

// lost is what fork leaves behind: by a double fork, as daemons do it. Its
// argument is the folder, so that the test finds it; nothing else names it.
func lost(args []string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	if len(args) > 1 {
		child := exec.Command("/proc/self/exe", "part", "lost", args[0])
		child.Env = []string{"NOTHING=1"}
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			return say("fork: %v", err)
		}
		return 0
	}
	select {}
}

// flood writes as many lines as it is asked to.
func flood([]string) int {
	end := terminated()
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv(wire.EnvPort))
	if err != nil {
		return say("listen: %v", err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var lines int
		if _, err := fmt.Sscan(r.URL.Query().Get("lines"), &lines); err != nil {
			fmt.Fprintln(w, "fine")
			return
		}
		pad := strings.Repeat("x", 100)
		begin := time.Now()
		for i := range lines {
			fmt.Printf("line %d %s\n", i, pad)
		}
		fmt.Println("end")
		fmt.Fprintln(w, time.Since(begin))
	}))
	<-end
	return 0
}

// silent is on the bus but answers nothing of what it is asked.
func silent([]string) int {
	end := terminated()
	nc, err := nats.Connect(os.Getenv(wire.EnvNATSURL), nats.Timeout(await.Patience), nats.UserInfo(os.Getenv(wire.EnvNATSUser), os.Getenv(wire.EnvNATSPass)))
	if err != nil {
		return say("connect: %v", err)
	}
	defer nc.Close()
	if _, err := nc.QueueSubscribe("silent.some", os.Getenv(wire.EnvGroup), func(*nats.Msg) {}); err != nil {
		return say("subscribe: %v", err)
	}
	<-end
	return 0
}
