//go:build real

package svom_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"testing"

	"fairlead/test/browser"
)

const pageNotice = `<voe:VOEvent xmlns:voe="http://www.ivoa.net/xml/VOEvent/v2.0" role="observation" version="2.0" ivorn="ivo://org.example/page#sb26010109_%d">
	<Who><Date>2046-01-01T00:0%[1]d:00+00:00</Date></Who>
	<What><Param name="Packet_Type" value="20%[1]d"/><Param name="Pkt_Ser_Num" value="1"/><Param name="Instrument" value="ECLAIRs"/>
	<Group name="Svom_Identifiers"><Param name="Burst_Id" value="sb26010109"/></Group></What>
	<WhereWhen><ObsDataLocation><ObservationLocation><AstroCoords coord_system_id="UTC-ICRS-GEO"><Position2D unit="deg">
	<Value2><C1>83.633</C1><C2>22.014</C2></Value2><Error2Radius>0.1</Error2Radius></Position2D></AstroCoords></ObservationLocation></ObsDataLocation></WhereWhen>
	</voe:VOEvent>`

// TestRealPage looks at the page while messages come, and while the program that
// serves it is replaced by another.
func TestRealPage(t *testing.T) {
	s := up(t)
	p := browser.Open(t)
	notify := func(kind int) {
		t.Helper()
		if status, body := s.ask(t, http.MethodPost, "/api/notices", fmt.Sprintf(pageNotice, kind)); status != http.StatusAccepted {
			t.Fatalf("%d %s", status, body)
		}
	}
	text := func(id, part string) string {
		return fmt.Sprintf("document.getElementById(%q).textContent.includes(%q)", id, part)
	}
	const live = `document.getElementById("state").textContent === "live"`
	notify(2)
	p.Call(t, "Page.navigate", map[string]any{"url": s.url}, nil)
	p.Until(t, `document.readyState === "complete" && location.protocol === "http:" && `+live)
	p.Until(t, text("burst-list", "sb26010109")+"&&"+text("burst-list", "ECLAIRs wake-up")+"&&"+text("burst-list", "RA 83.633"))
	p.Until(t, text("services", "VHF_RECEIVER")+"&&"+text("services", "BURSTS")+"&&"+text("services", "Running"))
	p.Until(t, text("watching", "you are the only one here"))
	notify(4)
	p.Until(t, text("burst-list", "2 notices")+"&&"+text("stream", "slewing of sb26010109")+"&&"+text("stream", "sb26010109 has 2 notices"))
	p.Until(t, `document.querySelectorAll("#stream li").length > 5`)
	p.Looks(t, "svom")
	p.Quiet(t, "")

	p.View(t, [2]int{400, 800}, "light")
	p.Do(t, `document.querySelector("[data-show=science]").click()`)
	p.Until(t, `[...document.querySelectorAll("#stream li")].every((li) => li.className.startsWith("science"))`)
	p.Do(t, `document.querySelector("[data-show=data]").click()`)
	p.Do(t, `document.getElementById("pause").click()`)
	notify(5)
	p.Until(t, text("burst-list", "3 notices"))
	p.Until(t, "!"+text("stream", "not slewing of sb26010109"))
	p.Do(t, `document.getElementById("pause").click()`)
	p.Until(t, text("stream", "not slewing of sb26010109"))
	p.Looks(t, "svom-data")
	p.Quiet(t, "")

	// Another process takes over; the page comes back and misses nothing.
	p.Do(t, `document.querySelector("[data-show=activity]").click()`)
	if out, err := exec.CommandContext(t.Context(), s.program, "--data", s.data, "upgrade").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	notify(1)
	p.Until(t, text("burst-list", "4 notices"))
	p.Until(t, live)
	p.Quiet(t, "WebSocket")
}
