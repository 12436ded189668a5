// Package svom_test runs the svom system as it is, by the fairlead program from its
// file, and uses it through its door and its bus.
package svom_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fairlead/stacks/svom/message"
	"fairlead/stacks/svom/notice"
	"fairlead/test/await"
	"fairlead/test/stage"
)

const patience = 3 * time.Minute // for a slow machine that builds everything first

// stack is the running system.
type stack struct {
	url, data, program string
	http               *http.Client
}

// up builds fairlead, starts the svom system with it in a temporary folder on a free
// port, and stops it at the end of the test.
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
	cmd := exec.Command(s.program, "up", here, "-e", "test", "--data", s.data, "--listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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
	return s
}

// down stops the system, also one that another process has taken over, and shows what
// it logged if the test failed.
func (s *stack) down(t *testing.T, cmd *exec.Cmd, ended chan error, output *stage.Recorder) {
	t.Helper()
	out, err := exec.Command(s.program, "--data", s.data, "down").CombinedOutput()
	if err != nil && s.url != "" {
		t.Errorf("down: %v\n%s", err, out)
	}
	if err != nil {
		_ = cmd.Process.Signal(syscall.SIGINT)
	}
	select {
	case err := <-ended:
		if err != nil && s.url != "" {
			t.Errorf("the system did not end well: %v\n%s", err, output)
		}
	case <-time.After(time.Minute):
		t.Errorf("the system does not end\n%s", output)
		_ = cmd.Process.Kill()
	}
	if !t.Failed() {
		return
	}
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

// run runs a verb of the program and returns what it printed, and whether it was
// done.
func (s *stack) run(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.program, append([]string{"--data", s.data}, args...)...).CombinedOutput()
	return string(out), err == nil
}

// secret reads a secret that was generated.
func (s *stack) secret(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.data, "secrets", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// ask sends a request through the door and returns the answer's status and body.
func (s *stack) ask(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// input are notices as they come: the real ones where there are some, and invented
// ones of 5 bursts; all of them several times, in no order.
func input(t *testing.T) (documents []string, want map[string][]string) {
	t.Helper()
	var once []string
	if dir := os.Getenv("FAIRLEAD_DATA"); dir != "" {
		files, err := filepath.Glob(filepath.Join(dir, "svom-notices", "*.xml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			once = append(once, string(b))
		}
		t.Logf("%d real notices", len(files))
	}
	for burst := range 5 {
		for i, kind := range []int{notice.GRMTrigger, notice.Wakeup, notice.Slewing, notice.MXTInitial, notice.MXTUpdate, notice.VT} {
			id := fmt.Sprintf("xx2601010%d", burst)
			once = append(once, fmt.Sprintf(`<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" role="test" version="2.0" ivorn="ivo://org.example/test#%s_%d">
				<Who><Date>2026-01-01T00:%02d:00+00:00</Date></Who>
				<What><Param name="Packet_Type" value="%d"/><Param name="Pkt_Ser_Num" value="1"/><Param name="Instrument" value="ECLAIRs"/>
				<Group name="Svom_Identifiers"><Param name="Burst_Id" value="%[1]s"/></Group></What></voe:VOEvent>`, id, kind, i, kind))
		}
	}
	want = map[string][]string{}
	for _, text := range once {
		n, err := notice.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		want[n.Burst] = append(want[n.Burst], n.ID)
		for range 1 + rand.IntN(3) {
			documents = append(documents, text)
		}
	}
	rand.Shuffle(len(documents), func(i, j int) { documents[i], documents[j] = documents[j], documents[i] })
	return documents, want
}

func TestSvom(t *testing.T) {
	s := up(t)
	t.Run("what the catalogue says", s.testCatalogue)
	t.Run("what is wrong is refused", s.testWrong)
	t.Run("services say how they are", s.testHeartbeats)
	t.Run("the page and what it is told", s.testPage)
	t.Run("every notice counts once", s.testNotices)
	t.Run("a station sends again", s.testStation)
	t.Run("a client that speaks plain NATS", s.testNatsio)
}

func (s *stack) testCatalogue(t *testing.T) {
	out, ok := s.run(t, "queues", "--json")
	var list struct{ Queues []struct{ Name, Type string } }
	if err := json.Unmarshal([]byte(out), &list); !ok || err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	got := map[string]string{}
	for _, q := range list.Queues {
		got[q.Name] = q.Type
	}
	want := map[string]string{"data.mdb": "DataNotification", "data.vhf": "DataNotification", "data.xband": "DataNotification"}
	for _, programme := range []string{"calibration", "core_program", "general_program", "infrastructure", "too"} {
		want["activity."+programme], want["science."+programme] = "ServiceStatus", "DataNotification"
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The messages of the presentation that this system is after.
const (
	seedStatus = `{"ServiceStatus": {"descriptor": {"name": "WEBSOCKET_GATEWAY", "creation_date": "2019-01-09T14:20:01",
		"uri": "svom://natsgateway", "instrument": "ANY", "mode": "ANY", "version": 1.0}, "activity": "Running", "date": "2019-01-09T14:24:09"}}`
	seedInner = `{\"CcsdsTmHeadr\": {\"CcsdsApid\": 576, \"CcsdsGFlag\": 3, \"CcsdsCounter\": 1, \"CcsdsPLength\": 87}, \"VhfTmHeader\": {\"DPacketTimeS\": 61},
		\"IObservId\": {\"IObsType\": 0, \"NObsNumber\": 1}, \"Alert_MsgCount\": 0, \"Alert_TimeTbAbsSeconds\": 325, \"DalertTBAbF\": 4410433,
		\"Alert_TimeTb\": 1279611476, \"Alert_SlewRequest\": 76, \"Alert_SkyTheta\": 3211333, \"Alert_SkyPhi\": 4410433, \"Alert_CatSrcNum\": 19525,
		\"Alert_SkyYpix\": 82, \"Alert_SkyZpix\": 84, \"Alert_SkyVar\": 82, \"Alert_Quality\": 76, \"Alert_TriggerCriterium\": 6716,
		\"Alert_DetCounts\": 4543060, \"Alert_DetBkg\": 4993280, \"Sat_PositionX\": 3124.7658, \"Sat_PositionY\": 5172.0, \"Sat_PositionZ\": 46399.0,
		\"Sat_AttitudeQ0\": 204.25, \"Sat_AttitudeQ1\": 33.2685, \"Sat_AttitudeQ2\": 1.8e-09, \"Sat_AttitudeQ3\": 0.0, \"Sat_AttQuality\": 0,
		\"Sat_AttRef\": 0, \"ZVhfPEC\": 52688}`
	seedData = `{"DataNotification": {"source": "VHF", "data_type": "ECLALERTL1", "date": "2018-12-04T14:59:04.535Z", "message": "INNER",
		"resource_locator": "32fef21a2cea43652fa28346de70b8"}}`
)

// alert is the notification of the presentation.
func alert() string {
	inner := strings.NewReplacer("\n", " ", "\t", "").Replace(seedInner)
	return strings.Replace(seedData, "INNER", inner, 1)
}

// testWrong publishes by hand, what the presentation shows and what it warns of.
func (s *stack) testWrong(t *testing.T) {
	data := alert()
	for name, c := range map[string]struct{ subject, message, want string }{
		"a status":                        {"activity.infrastructure", seedStatus, ""},
		"a notification":                  {"data.xband", data, ""},
		"no JSON":                         {"data.xband", "This is not a valid message", "not stored: "},
		"a status among the data":         {"data.xband", seedStatus, "not stored: "},
		"a date that is none":             {"activity.too", strings.Replace(seedStatus, `"date": "2019`, `"date": "19`, 1), "/ServiceStatus/date"},
		"a text that holds no JSON":       {"data.xband", strings.Replace(seedData, "INNER", "bare", 1), "/DataNotification/message"},
		"a field of the inner that lacks": {"data.xband", strings.Replace(data, "IObservId", "Observ", 1), "/DataNotification/message"},
		"an inner number out of range":    {"data.xband", strings.Replace(data, `\"CcsdsApid\": 576`, `\"CcsdsApid\": 2048`, 1), "/DataNotification/message"},
	} {
		t.Run(name, func(t *testing.T) {
			out, ok := s.run(t, "publish", c.subject, c.message)
			if ok != (c.want == "") || !strings.Contains(out, c.want) {
				t.Errorf("got %q, want %q", out, c.want)
			}
		})
	}
	if status, body := s.ask(t, http.MethodPost, "/api/notices", "<VOEvent/>"); status != http.StatusUnprocessableEntity || !strings.Contains(body, "its ivorn is missing or wrong") {
		t.Errorf("got %d %s", status, body)
	}
}

func (s *stack) testHeartbeats(t *testing.T) {
	for subject, name := range map[string]string{"activity.infrastructure": "VHF_RECEIVER", "activity.core_program": "BURSTS"} {
		await.Until(t, name+" has told that it runs", func() bool {
			out, _ := s.run(t, "queue", subject, "peek")
			return strings.Contains(out, name)
		})
	}
}

// testPage has the page and its parts, and the events that it would get.
func (s *stack) testPage(t *testing.T) {
	status, page := s.ask(t, http.MethodGet, "/", "")
	if status != http.StatusOK || !strings.Contains(page, "Content-Security-Policy") {
		t.Errorf("%d %s", status, page)
	}
	for _, part := range []string{"/app.js", "/style.css", "/icon.svg", "/fairlead.js"} {
		if status, _ := s.ask(t, http.MethodGet, part, ""); status != http.StatusOK {
			t.Errorf("%s: %d", part, status)
		}
	}
	for _, path := range []string{"/catalogue.json", "/monitor/varz"} {
		if status, _ := s.ask(t, http.MethodGet, path, ""); status != http.StatusUnauthorized {
			t.Errorf("%s without a password: %d", path, status)
		}
		login := "Basic " + base64.StdEncoding.EncodeToString([]byte("operator:"+s.secret(t, "OPERATOR_PASSWORD")))
		if status, body := s.ask(t, http.MethodGet, path, "", "Authorization", login); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/live/activity", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	missing := map[string]bool{"VHF_RECEIVER": true, "BURSTS": true}
	for lines := bufio.NewScanner(resp.Body); len(missing) > 0; {
		if !lines.Scan() {
			t.Fatalf("nothing was heard of %v: %v", missing, lines.Err())
		}
		for name := range missing {
			if strings.Contains(lines.Text(), `"name":"`+name+`"`) {
				delete(missing, name)
			}
		}
	}
}

// kill ends an instance of a service as a crash does.
func (s *stack) kill(t *testing.T, service string) {
	t.Helper()
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range programs {
		program, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(program, s.data) || filepath.Base(program) != service {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err == nil {
			return
		}
	}
	t.Errorf("there is no instance of %s to kill", service)
}

// testNotices sends every notice up to three times, from several clients at once, in
// no order, while instances are restarted and killed.
func (s *stack) testNotices(t *testing.T) {
	documents, want := input(t)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < len(documents); i += 4 {
				resp, err := s.http.Post(s.url+"/api/notices", "application/xml", strings.NewReader(documents[i]))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("notice: %d", resp.StatusCode)
				}
			}
		})
	}
	s.kill(t, "bursts")
	if out, ok := s.run(t, "restart", "bursts"); !ok {
		t.Errorf("restart: %s", out)
	}
	s.kill(t, "bursts")
	wg.Wait()
	for id, ids := range want {
		slices.Sort(ids)
		var got struct {
			notice.Burst

			All []notice.Notice
		}
		await.Until(t, fmt.Sprintf("burst %s has %d notices", id, len(ids)), func() bool {
			status, body := s.ask(t, http.MethodGet, "/api/bursts/"+id, "")
			if status == http.StatusNotFound {
				return false
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
				t.Fatalf("%d %v in %s", status, err, body)
			}
			return len(got.All) == len(ids)
		})
		var have []string
		for _, n := range got.All {
			have = append(have, n.ID)
		}
		if !slices.IsSortedFunc(got.All, notice.Compare) || got.Notices != len(ids) {
			t.Errorf("got %+v", got)
		}
		if slices.Sort(have); !slices.Equal(have, ids) {
			t.Errorf("burst %s: got %v, want %v", id, have, ids)
		}
	}
	told := map[string]int{}
	await.Until(t, "what follows from every notice was told", func() bool {
		told = s.told(t)
		for id, ids := range want {
			if told[id] < len(ids) {
				return false
			}
		}
		return true
	})
	for id, ids := range want {
		if told[id] != len(ids) {
			t.Errorf("of the %d notices of burst %s it was told %d times", len(ids), id, told[id])
		}
	}
}

// told is how often it was told of each burst that it has changed.
func (s *stack) told(t *testing.T) map[string]int {
	t.Helper()
	out, ok := s.run(t, "queue", "science.core_program", "peek", "-n", "1000", "--json")
	var list struct {
		Messages []struct {
			Data json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(out), &list); !ok || err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	n := map[string]int{}
	for _, m := range list.Messages {
		var d message.DataNotification
		if err := json.Unmarshal(m.Data, &d); err != nil {
			t.Fatalf("%v in %s", err, m.Data)
		}
		burst, _, _ := strings.Cut(strings.TrimPrefix(d.Data.Resource, "svom://bursts/"), "/")
		n[burst]++
	}
	return n
}

// testStation sends over HTTP what a ground station received, three times.
func (s *stack) testStation(t *testing.T) {
	const path = "/api/data/xband"
	token := []string{"X-Station-Token", s.secret(t, "STATION_TOKEN"), "Content-Type", "application/json"}
	body := strings.Replace(alert(), `"VHF"`, `"XBAND"`, 1)
	if status, _ := s.ask(t, http.MethodPost, path, body, "Content-Type", "application/json"); status != http.StatusUnauthorized {
		t.Errorf("without the token: %d", status)
	}
	var first struct {
		Stream    string
		Sequence  uint64
		Duplicate bool
	}
	for i := range 3 {
		status, answer := s.ask(t, http.MethodPost, path, body, token...)
		got := first
		if err := json.Unmarshal([]byte(answer), &got); err != nil || status != http.StatusAccepted || got.Duplicate != (i > 0) {
			t.Fatalf("%d: %d %s, %v", i, status, answer, err)
		}
		if i == 0 {
			first = got
		} else if got.Stream != first.Stream || got.Sequence != first.Sequence {
			t.Errorf("got %+v, the first time %+v", got, first)
		}
	}
	status, answer := s.ask(t, http.MethodPost, path, strings.Replace(body, "CcsdsApid", "Apid", 1), token...)
	if status != http.StatusUnprocessableEntity || !strings.Contains(answer, "/DataNotification/message") {
		t.Errorf("got %d %s", status, answer)
	}
}

// testNatsio does what the laboratory's client does, with nothing of fairlead's: it
// logs in with a name and a password, publishes, asks with a time limit, and subscribes
// durably by the name of its handler.
func (s *stack) testNatsio(t *testing.T) {
	out, ok := s.run(t, "bus", "user", "add", "probe", "--subscribe", "data.*", "--json")
	var probe struct{ URL string }
	if err := json.Unmarshal([]byte(out), &probe); !ok || err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	connect := func(name, password string) (*nats.Conn, error) {
		return nats.Connect(probe.URL, nats.Timeout(await.Patience), nats.UserInfo(name, password), nats.CustomInboxPrefix("_FL.user."+name), nats.ReconnectWait(50*time.Millisecond), nats.MaxReconnects(-1))
	}
	if nc, err := connect("natsio", "secret"); err == nil {
		nc.Close()
		t.Fatal("any password will do")
	}
	nc, err := connect("natsio", s.secret(t, "NATSIO_PASSWORD"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(await.Patience))
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.Publish(t.Context(), "data.mdb", []byte("This is not a valid message"))
	if api, _ := errors.AsType[*jetstream.APIError](err); api == nil || api.Code != http.StatusUnprocessableEntity {
		t.Errorf("an invalid message: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := js.Publish(ctx, "data.vhf", []byte(alert())); err == nil {
		t.Error("it may publish where it must not")
	}
	reply, err := nc.Request("bursts.list", []byte(`{"limit": 1}`), await.Patience)
	if err != nil || !bytes.Contains(reply.Data, []byte(`"bursts":[{`)) {
		t.Errorf("got %s, %v", reply.Data, err)
	}

	// Durable, by the name of the handler: what was not acknowledged comes again.
	reply, err = nc.Request("$FLQ.subscribe.natsio", []byte(`{"subject": "data.mdb", "name": "on_data"}`), await.Patience)
	if err != nil {
		t.Fatal(err)
	}
	var granted struct {
		Consumers []struct{ Stream, Consumer string }
	}
	if err := json.Unmarshal(reply.Data, &granted); err != nil || len(granted.Consumers) != 1 {
		t.Fatalf("%v in %s", err, reply.Data)
	}
	for i := range 3 {
		if _, err := js.Publish(t.Context(), "data.mdb", []byte(strings.Replace(alert(), "32fef2", fmt.Sprint(i), 1))); err != nil {
			t.Fatal(err)
		}
	}
	// The broker is replaced by another process: the client connects again, as often as
	// it takes.
	if out, ok := s.run(t, "upgrade"); !ok {
		t.Fatalf("upgrade: %s", out)
	}
	await.Until(t, "the client is connected again", nc.IsConnected)
	// The first is acknowledged; the others come again.
	for _, numbers := range [][]int{{0, 1, 2}, {1, 2}} {
		c, err := js.Consumer(t.Context(), granted.Consumers[0].Stream, granted.Consumers[0].Consumer)
		if err != nil {
			t.Fatal(err)
		}
		var given []jetstream.Msg
		for _, n := range numbers {
			m, err := c.Next(jetstream.FetchMaxWait(await.Patience))
			if err != nil {
				t.Fatalf("message %d: %v", n, err)
			}
			if !bytes.Contains(m.Data(), []byte(fmt.Sprintf(`"%d1a2cea`, n))) {
				t.Errorf("message %d: got %s", n, m.Data())
			}
			given = append(given, m)
		}
		for i, m := range given {
			if len(given) == 3 && i > 0 {
				err = m.Nak()
			} else {
				err = m.DoubleAck(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
