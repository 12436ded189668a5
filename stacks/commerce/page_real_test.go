//go:build real

package commerce_test

import (
	"fmt"
	"testing"

	"fairlead/test/browser"
)

// alert is a condition: in the form is a message with that text, inside the window,
// announced and with the focus.
func alert(form, text string) string {
	return fmt.Sprintf(`(() => {
		const notice = document.querySelector("#%s .notice"), box = notice.getBoundingClientRect();
		return !notice.hidden && notice.textContent === %q && notice.getAttribute("role") === "alert" &&
			document.activeElement === notice && box.height > 0 && box.top >= 0 && box.bottom <= innerHeight;
	})()`, form, text)
}

func TestRealPage(t *testing.T) {
	s := up(t)
	p := browser.Open(t)
	const rows = `document.querySelectorAll("#sums-rows tr").length > 3 && document.querySelectorAll("#find-rows tr").length === 20`
	p.Call(t, "Page.navigate", map[string]any{"url": s.url}, nil)
	p.Until(t, `document.readyState === "complete" && location.protocol === "http:"`)
	p.Looks(t, "welcome")
	p.Quiet(t, "")

	p.View(t, [2]int{400, 800}, "light")
	login := func(password string) {
		t.Helper()
		p.Fill(t, "username", "admin")
		p.Fill(t, "password", password)
		p.Do(t, `document.querySelector("#login button").click()`)
	}
	login("a wrong password")
	p.Until(t, alert("login", "The name or the password is wrong."))
	p.Looks(t, "refused")
	p.Quiet(t, "/api/auth/login")

	login(s.password)
	p.Until(t, rows)
	p.Until(t, `document.getElementById("sums-caption").textContent === "US dollars by partner" && document.getElementById("welcome").hidden`)
	p.Do(t, "scrollTo(0, 0)")
	p.Looks(t, "sums")
	p.Do(t, `document.querySelector("[data-by=chapter]").click()`)
	p.Until(t, `document.getElementById("sums-caption").textContent === "US dollars by chapter" && !document.querySelector("#sums [aria-busy]")`)
	p.Looks(t, "chapters")

	p.Call(t, "Page.reload", nil, nil)
	p.Until(t, `document.readyState === "complete" && performance.getEntriesByType("navigation")[0].type === "reload" && `+rows)
	p.Quiet(t, "")

	for _, size := range [][2]int{{1300, 900}, {400, 800}} {
		p.View(t, size, "light")
		p.Fill(t, "reporter", "FRA")
		p.Do(t, `document.querySelector("#search button").click()`)
		p.Until(t, `document.getElementById("find-rows").rows.length > 0 && [...document.getElementById("find-rows").rows].every((r) => r.cells[0].textContent === "France") && !document.querySelector("#search button:disabled")`)
		p.Fill(t, "reporter", "ZZZ")
		p.Do(t, `document.querySelector("#search button").click()`)
		p.Until(t, alert("search", `Reporter "ZZZ" is neither a UN code nor ISO letters of an area that is known.`))
		p.Until(t, `document.getElementById("find-rows").rows.length === 0 && document.getElementById("more").hidden`)
		p.Quiet(t, "reporter=ZZZ")
	}
	p.Until(t, `!document.querySelector("#sums .sideways").hidden`)
	p.Looks(t, "unknown")

	p.Do(t, `document.getElementById("logout").click()`)
	p.Until(t, `!document.getElementById("welcome").hidden && sessionStorage.length === 0 && document.getElementById("sums-rows").rows.length === 0`)
	p.Call(t, "Page.reload", nil, nil)
	p.Until(t, `document.readyState === "complete" && !document.getElementById("welcome").hidden`)
	p.Quiet(t, "")

	p.Do(t, `sessionStorage.setItem("commerce.refresh_token", "no longer good")`)
	p.Call(t, "Page.reload", nil, nil)
	p.Until(t, alert("login", "Your login has ended: please log in again."))
	p.Quiet(t, "/api/auth/refresh")
}
