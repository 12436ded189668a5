// Package commerce_test runs the commerce system as it is, by the fairlead program
// from its file, and uses it through its door.
package commerce_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/test/stage"
)

const patience = 3 * time.Minute // for a slow machine that builds everything first

// stack is the running system.
type stack struct {
	url, data, password string
	program             string
	http                *http.Client
}

// up builds fairlead, starts the commerce system with it in a temporary folder on a
// free port, and stops it at the end of the test.
func up(t *testing.T) *stack {
	t.Helper()
	dir := t.TempDir()
	s := &stack{data: filepath.Join(dir, "data"), program: filepath.Join(dir, "fairlead"), http: &http.Client{Timeout: patience}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.program, "fairlead/cmd/fairlead")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build fairlead: %v\n%s", err, out)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(s.program, "up", here, "--data", s.data, "--listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: 0}
	output := stage.NewRecorder(`(?m)^\s*open\s+(http://\S+)`)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { s.down(t, cmd, ended, output) })
	select {
	case s.url = <-output.Found:
	case err := <-ended:
		ended <- err
		t.Fatalf("the system ended: %v\n%s", err, output)
	case <-time.After(patience):
		t.Fatalf("the system is not ready\n%s", output)
	}
	password, err := os.ReadFile(filepath.Join(s.data, "secrets", "ADMIN_PASSWORD"))
	if err != nil {
		t.Fatal(err)
	}
	s.password = strings.TrimSpace(string(password))
	return s
}

// down stops the system as Ctrl-C does, and sees to it that nothing is left.
func (s *stack) down(t *testing.T, cmd *exec.Cmd, ended chan error, output *stage.Recorder) {
	t.Helper()
	_ = cmd.Process.Signal(syscall.SIGINT)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the system did not end well: %v\n%s", err, output)
		}
	case <-time.After(time.Minute):
		t.Errorf("the system does not end\n%s", output)
		_ = cmd.Process.Kill()
	}
	if t.Failed() {
		logs, err := filepath.Glob(filepath.Join(s.data, "logs", "*", "*"))
		if err != nil {
			t.Error(err)
		}
		for _, name := range logs {
			if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
				t.Logf("%s:\n%s", name, b[max(0, len(b)-4000):])
			}
		}
	}
	if s.url == "" {
		return
	}
	if _, err := s.http.Get(s.url); err == nil {
		t.Error("the door is still open")
	}
	if left := processes(t, s.data); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// processes returns the command lines that run from the data folder.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if b, err := os.ReadFile(e); err == nil && bytes.Contains(b, []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(b, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// user is somebody with or without tokens.
type user struct {
	*stack
	access, refresh string
}

// call sends a request and returns the status and the body. A body that is neither
// nil, bytes nor a reader goes as JSON.
func (u *user) call(t *testing.T, method, path string, body any, header ...string) (int, []byte) {
	t.Helper()
	status, b, err := u.try(t.Context(), method, path, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, b
}

func (u *user) try(ctx context.Context, method, path string, body any, header ...string) (int, []byte, error) {
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		in = bytes.NewReader(b)
	case io.Reader:
		in = b
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.url+path, in)
	if err != nil {
		return 0, nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if u.access != "" {
		req.Header.Set("Authorization", "Bearer "+u.access)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := u.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// want sends a request that must be answered with that status, and decodes the body.
func (u *user) want(t *testing.T, status int, into any, method, path string, body any, header ...string) {
	t.Helper()
	got, b := u.call(t, method, path, body, header...)
	if got != status {
		t.Fatalf("%s %s: %d %s, want %d", method, path, got, b, status)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
}

func (s *stack) anybody() *user { return &user{stack: s} }

func (s *stack) login(t *testing.T, name, password string) *user {
	t.Helper()
	u := &user{stack: s}
	u.tokens(t, "/api/auth/login", map[string]string{"username": name, "password": password})
	return u
}

func (u *user) tokens(t *testing.T, path string, body any) {
	t.Helper()
	var reply struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int    `json:"expires_in"`
	}
	u.want(t, http.StatusOK, &reply, http.MethodPost, path, body)
	if reply.TokenType != "Bearer" || reply.ExpiresIn != 900 || reply.AccessToken == "" || reply.RefreshToken == "" {
		t.Fatalf("%s: got %+v", path, reply)
	}
	u.access, u.refresh = reply.AccessToken, reply.RefreshToken
}

// named registers a user with a role and logs in.
func (s *stack) named(t *testing.T, admin *user, name, role string) *user {
	t.Helper()
	s.anybody().want(t, http.StatusCreated, nil, http.MethodPost, "/api/auth/register",
		map[string]string{"username": name, "password": "correct horse battery"})
	if role != "viewer" {
		admin.want(t, http.StatusOK, nil, http.MethodPut, "/api/auth/users/"+name+"/role", map[string]string{"role": role})
	}
	return s.login(t, name, "correct horse battery")
}

func TestCommerce(t *testing.T) {
	s := up(t)
	admin := s.login(t, "admin", s.password)
	t.Run("a fresh system shows something", func(t *testing.T) { s.testFresh(t, admin) })
	t.Run("users", func(t *testing.T) { s.testUsers(t, admin) })
	t.Run("models", func(t *testing.T) { s.testModels(t, admin) })
	t.Run("what is wrong is said", func(t *testing.T) { s.testWrong(t, admin) })
	analyst := s.named(t, admin, "analyst", "analyst")
	t.Run("imports, sums, search, export", func(t *testing.T) { s.testFlows(t, analyst) })
}

func (s *stack) testFresh(t *testing.T, admin *user) {
	t.Helper()
	status, page := s.anybody().call(t, http.MethodGet, "/", nil)
	if status != http.StatusOK || !bytes.Contains(page, []byte("Content-Security-Policy")) {
		t.Errorf("start page: %d", status)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([a-z.]+)"`).FindAllSubmatch(page, -1) {
		if status, _ := s.anybody().call(t, http.MethodGet, "/"+string(m[1]), nil); status != http.StatusOK {
			t.Errorf("%s: %d", m[1], status)
		}
	}
	var sums summary
	admin.want(t, http.StatusOK, &sums, http.MethodGet, "/api/flows/summary?by=chapter", nil)
	if len(sums.Rows) < 3 || sums.Rows[0].Name == "" {
		t.Errorf("got %+v", sums)
	}
}

func (s *stack) testUsers(t *testing.T, admin *user) {
	t.Helper()
	nobody := s.anybody()
	nobody.want(t, http.StatusUnauthorized, nil, http.MethodGet, "/api/auth/me", nil)
	nobody.want(t, http.StatusUnauthorized, nil, http.MethodGet, "/api/flows", nil)
	for _, forged := range []string{"Fairlead-Identity", "fairlead_identity", "FAIRLEAD-IDENTITY"} {
		nobody.want(t, http.StatusUnauthorized, nil, http.MethodGet, "/api/auth/me", nil, forged, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.")
	}

	viewer := s.named(t, admin, "eve", "viewer")
	var me struct {
		Username string
		Roles    []string
	}
	viewer.want(t, http.StatusOK, &me, http.MethodGet, "/api/auth/me", nil)
	if me.Username != "eve" || len(me.Roles) != 1 || me.Roles[0] != "viewer" {
		t.Errorf("got %+v", me)
	}
	viewer.want(t, http.StatusOK, nil, http.MethodGet, "/api/flows?limit=1", nil)
	viewer.want(t, http.StatusForbidden, nil, http.MethodPost, "/api/flows/import", []byte("{}"))
	viewer.want(t, http.StatusForbidden, nil, http.MethodPut, "/api/auth/users/eve/role", map[string]string{"role": "admin"})

	register := func(status int, name, password string) {
		t.Helper()
		nobody.want(t, status, nil, http.MethodPost, "/api/auth/register", map[string]any{"username": name, "password": password})
	}
	register(http.StatusConflict, "eve", "correct horse battery")
	register(http.StatusConflict, "admin", "correct horse battery")
	register(http.StatusUnprocessableEntity, "carol", "short")
	register(http.StatusUnprocessableEntity, "x", "correct horse battery")
	register(http.StatusCreated, "carol", "correct horse battery")
	s.login(t, "carol", "correct horse battery").want(t, http.StatusForbidden, nil, http.MethodPost, "/api/flows/import", []byte("{}"))

	admin.want(t, http.StatusNotFound, nil, http.MethodPut, "/api/auth/users/nobody/role", map[string]string{"role": "viewer"})
	admin.want(t, http.StatusUnprocessableEntity, nil, http.MethodPut, "/api/auth/users/eve/role", map[string]string{"role": "root"})
	admin.want(t, http.StatusConflict, nil, http.MethodPut, "/api/auth/users/admin/role", map[string]string{"role": "viewer"})

	// Refresh tokens: rotated, of no use as access tokens nor the other way round,
	// and the whole family revoked with a logout.
	first := viewer.refresh
	viewer.tokens(t, "/api/auth/refresh", map[string]string{"refresh_token": first})
	if viewer.refresh == first {
		t.Error("the refresh token is the same")
	}
	refresh := func(token string) int {
		t.Helper()
		status, _ := nobody.call(t, http.MethodPost, "/api/auth/refresh", map[string]string{"refresh_token": token})
		return status
	}
	if status := refresh(viewer.access); status != http.StatusUnauthorized {
		t.Errorf("an access token as refresh token: %d", status)
	}
	(&user{stack: s, access: viewer.refresh}).want(t, http.StatusUnauthorized, nil, http.MethodGet, "/api/auth/me", nil)
	second := viewer.refresh
	viewer.tokens(t, "/api/auth/refresh", map[string]string{"refresh_token": second})
	// The first one again, although its answer was used: a thief, or the owner after him.
	if status := refresh(first); status != http.StatusUnauthorized {
		t.Errorf("reuse: %d", status)
	}
	if status := refresh(viewer.refresh); status != http.StatusUnauthorized {
		t.Errorf("after reuse the family lives: %d", status)
	}
	viewer = s.login(t, "eve", "correct horse battery")
	nobody.want(t, http.StatusNoContent, nil, http.MethodPost, "/api/auth/logout", map[string]string{"refresh_token": viewer.refresh})
	if status := refresh(viewer.refresh); status != http.StatusUnauthorized {
		t.Errorf("after logout: %d", status)
	}

	// Names that exist and names that do not are locked in the same way.
	var answers [2][]string
	for i, name := range []string{"carol", "nobody"} {
		for range 7 {
			status, body := nobody.call(t, http.MethodPost, "/api/auth/login", map[string]string{"username": name, "password": "a wrong password"})
			var p struct{ Detail string }
			if err := json.Unmarshal(body, &p); err != nil {
				t.Fatal(err)
			}
			detail := regexp.MustCompile(`\d+ s$`).ReplaceAllString(p.Detail, "N s")
			answers[i] = append(answers[i], fmt.Sprint(status, " ", detail))
		}
	}
	if fmt.Sprint(answers[0]) != fmt.Sprint(answers[1]) || !strings.HasPrefix(answers[0][6], "429 ") || !strings.HasPrefix(answers[0][4], "401 ") {
		t.Errorf("got\n%q\n%q", answers[0], answers[1])
	}
}

func (s *stack) testModels(t *testing.T, admin *user) {
	t.Helper()
	nobody := s.anybody()
	var countries struct {
		Items []struct {
			Code int
			ISO  string
		}
		Total int
	}
	nobody.want(t, http.StatusOK, &countries, http.MethodGet, "/api/model/countries?q=CHE&limit=500", nil)
	found := false
	for _, c := range countries.Items {
		found = found || c.Code == 757 && c.ISO == "CHE"
	}
	if !found {
		t.Errorf("got %+v", countries)
	}
	var commodity struct {
		Text                string
		Ancestors, Children []struct{ Code string }
	}
	nobody.want(t, http.StatusOK, &commodity, http.MethodGet, "/api/model/commodities/4407", nil)
	if len(commodity.Ancestors) != 2 || len(commodity.Children) < 2 {
		t.Errorf("got %+v", commodity)
	}
	nobody.want(t, http.StatusNotFound, nil, http.MethodGet, "/api/model/commodities/7777", nil)
	nobody.want(t, http.StatusBadRequest, nil, http.MethodGet, "/api/model/commodities?level=two", nil)

	reference := []byte(`{"results":[{"id":"4407","text":"4407 - Wood, another text","parent":"44","isLeaf":"0"},{"id":"77","text":"77 - reserved","parent":"TOTAL"}]}`)
	nobody.want(t, http.StatusUnauthorized, nil, http.MethodPost, "/api/model/commodities/import", reference)
	var report struct{ Received, Inserted, Updated, Unchanged, Rejected int }
	admin.want(t, http.StatusOK, &report, http.MethodPost, "/api/model/commodities/import", reference)
	if report.Received != 2 || report.Inserted != 1 || report.Updated != 1 {
		t.Errorf("got %+v", report)
	}
	nobody.want(t, http.StatusOK, &commodity, http.MethodGet, "/api/model/commodities/4407", nil)
	if commodity.Text != "Wood, another text" {
		t.Errorf("got %q", commodity.Text)
	}
	admin.want(t, http.StatusUnprocessableEntity, nil, http.MethodPost, "/api/model/commodities/import", reference[:50])
}

func (s *stack) testWrong(t *testing.T, admin *user) {
	t.Helper()
	for _, tt := range []struct {
		method, path string
		body         any
		status       int
		detail       string // part of it
	}{
		{http.MethodGet, "/api/flows?reporter=ZZZ", nil, 422, `reporter "ZZZ"`},
		{http.MethodGet, "/api/flows?hs=44x", nil, 422, "hs must be"},
		{http.MethodGet, "/api/flows?flow=Q", nil, 422, "flow must be"},
		{http.MethodGet, "/api/flows?year=1", nil, 422, "year must be"},
		{http.MethodGet, "/api/flows?year=last", nil, 400, ""},
		{http.MethodGet, "/api/flows?limit=501", nil, 422, "limit must be"},
		{http.MethodGet, "/api/flows?after=x", nil, 422, "after is not"},
		{http.MethodGet, "/api/flows/summary?by=weight", nil, 422, "by is"},
		{http.MethodGet, "/api/flows/summary?hs=44", nil, 422, "leave hs out"},
		{http.MethodGet, "/api/flows/export.csv?reporter=ZZZ", nil, 422, `reporter "ZZZ"`},
		{http.MethodPost, "/api/flows/import", []byte("not a table\n"), 422, "not a JSON object"},
		{http.MethodPost, "/api/flows/import", []byte(`{"data":[{"period":"2022"`), 422, "ends in the middle"},
		{http.MethodPost, "/api/auth/login", []byte(`{"username":`), 400, ""},
		{http.MethodPost, "/api/auth/login", []byte(`{"name":"admin","password":"x"}`), 422, `"name" is not a field`},
		{http.MethodPost, "/api/auth/login", []byte(`{"password":"x"}`), 422, "username must be given"},
		{http.MethodPost, "/api/auth/login", []byte(`{"username":"admin"}`), 422, "password must be given"},
		{http.MethodPost, "/api/auth/login", nil, 422, "username must be given"},
		{http.MethodPost, "/api/auth/register", []byte(`{"username":"mallory","password":"correct horse battery","role":"admin"}`), 422, `"role" is not a field`},
		{http.MethodPost, "/api/auth/register", []byte(`{"username":"mallory","password":""}`), 422, "password must be given"},
		{http.MethodPost, "/api/auth/logout", []byte(`{"token":"x"}`), 422, `"token" is not a field`},
		{http.MethodPost, "/api/auth/refresh", []byte(`{}`), 422, "refresh_token must be given"},
		{http.MethodDelete, "/api/flows", nil, 405, ""},
		{http.MethodGet, "/api/nothing", nil, 404, ""},
	} {
		status, body := admin.call(t, tt.method, tt.path, tt.body)
		var p struct {
			Status int
			Detail string
		}
		if err := json.Unmarshal(body, &p); err != nil || status != tt.status || p.Status != tt.status || !strings.Contains(p.Detail, tt.detail) {
			t.Errorf("%s %s: %d %s, %v, want %d with %q", tt.method, tt.path, status, body, err, tt.status, tt.detail)
		}
	}
}

// report is the reply to an import.
type report struct {
	Received, Inserted, Updated, Unchanged, Rejected int

	Reasons        map[string]int
	Rejections     []struct{ At int }
	SamplesRemoved int `json:"samples_removed"`
	Complete       bool
	Detail         string
}

func (s *stack) testFlows(t *testing.T, analyst *user) {
	t.Helper()
	world, partners := files(t)
	upload := func(body io.Reader, header ...string) report {
		t.Helper()
		var r report
		analyst.want(t, http.StatusOK, &r, http.MethodPost, "/api/flows/import", body, header...)
		return r
	}
	want := func(r report, received, inserted, updated, unchanged, rejected int) {
		t.Helper()
		got := [...]int{r.Received, r.Inserted, r.Updated, r.Unchanged, r.Rejected}
		if got != [...]int{received, inserted, updated, unchanged, rejected} || !r.Complete {
			t.Fatalf("got %+v, want %d received, %d inserted, %d updated, %d unchanged, %d rejected", r, received, inserted, updated, unchanged, rejected)
		}
	}

	// One request each, as they are; the second time nothing changes.
	r := upload(bytes.NewReader(world.gzipped), "Content-Encoding", "gzip")
	want(r, world.n, world.n, 0, 0, 0)
	if r.SamplesRemoved == 0 {
		t.Error("the samples are still there")
	}
	// A cut upload keeps what was committed, and says that it is not all.
	status, body := analyst.call(t, http.MethodPost, "/api/flows/import", partners.plain[:len(partners.plain)/2-5], "Content-Type", "text/csv")
	var cut report
	if err := json.Unmarshal(body, &cut); err != nil || status != http.StatusOK && cut.Complete {
		t.Fatalf("cut upload: %d %s", status, body)
	}
	begin := time.Now()
	r = upload(bytes.NewReader(partners.gzipped), "Content-Type", "text/csv", "Content-Encoding", "gzip")
	t.Logf("import of %d rows: %s", r.Received, time.Since(begin).Round(time.Millisecond))
	want(r, partners.n, partners.n-cut.Inserted, r.Updated, cut.Inserted-r.Updated, 0)
	if r.Updated > 1 { // the row in which it was cut had a shorter value
		t.Errorf("%d rows were updated", r.Updated)
	}
	want(upload(bytes.NewReader(partners.plain), "Content-Type", "text/csv"), partners.n, 0, 0, partners.n, 0)
	want(upload(bytes.NewReader(world.plain)), world.n, 0, 0, world.n, 0)

	s.testSums(t, analyst, append(world.records, partners.records...))
	s.testSearch(t, analyst, append(world.records, partners.records...))

	// What is rejected is told, what is not is stored.
	bad := "reporter_iso,flow_desc,partner_iso,cmd_code,primary_value,ref_year\nAUT,Import,CHE,4401,1.5,1999\nAUT,Import,ZZZ,4401,1.5,1999\nAUT,Import,CHE,4401,1.2345,1999\n"
	r = upload(strings.NewReader(bad), "Content-Type", "text/csv")
	want(r, 3, 1, 0, 0, 2)
	if r.Reasons["unknown_area"] != 1 || r.Reasons["bad_number"] != 1 || len(r.Rejections) != 2 || r.Rejections[0].At != 3 {
		t.Errorf("got %+v", r)
	}
	want(upload(strings.NewReader(strings.Replace(bad, "1.5", "2.5", 1)), "Content-Type", "text/csv"), 3, 0, 1, 0, 2)

	s.testTwoAtOnce(t, analyst)
	s.testBrokenExport(t, analyst)
}

// testTwoAtOnce has both instances write the one database at the same time.
func (s *stack) testTwoAtOnce(t *testing.T, analyst *user) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in := fmt.Sprintf("reporter_iso,flow_desc,partner_iso,cmd_code,primary_value,ref_year\nAUT,Export,CHE,4401,%d,1998\n", i)
			status, body, err := analyst.try(context.Background(), http.MethodPost, "/api/flows/import", []byte(in), "Content-Type", "text/csv")
			if err != nil || status != http.StatusOK {
				t.Errorf("import %d: %d %s, %v", i, status, body, err)
			}
		})
	}
	wg.Wait()
	var sums summary
	analyst.want(t, http.StatusOK, &sums, http.MethodGet, "/api/flows/summary?by=year&year=1998", nil)
	if len(sums.Rows) != 1 || sums.Rows[0].Records != 1 {
		t.Errorf("got %+v", sums)
	}
}

// testBrokenExport kills the instance that sends an export: the client must see
// that the file is not whole.
func (s *stack) testBrokenExport(t *testing.T, analyst *user) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/flows/export.csv", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+analyst.access)
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, pid := range s.instances(t, "tradeflow") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if killed != 2 {
		t.Fatalf("killed %d instances, want 2", killed)
	}
	// A small export may have been on its way as a whole.
	if err == nil && n > 8<<20 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after %d bytes: %v", n, err)
	}
	// The system recovers by itself.
	analyst.want(t, http.StatusOK, nil, http.MethodGet, "/api/flows?limit=1", nil)
}

// instances returns the pids of a service's instances.
func (s *stack) instances(t *testing.T, service string) []int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.program, "status", "--data", s.data, "--json").Output()
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	var status struct {
		Services []struct {
			Name      string
			Instances []struct{ PID int }
		}
	}
	if err := json.Unmarshal(out, &status); err != nil {
		t.Fatalf("status: %v in %s", err, out)
	}
	var pids []int
	for _, sv := range status.Services {
		if sv.Name == service {
			for _, i := range sv.Instances {
				pids = append(pids, i.PID)
			}
		}
	}
	return pids
}
