package grid_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
)

func text(s grid.Subscription) string {
	var b strings.Builder
	for _, step := range s.Narration {
		b.WriteString(step.Text + "\n")
	}
	return b.String()
}

func TestManualConfirmation(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	r.set(false, 0)
	f.put("one", properties(r.URL+"?code=hidden"))
	s := f.awaitState("one", grid.AwaitingManualAction)
	if s.Matching {
		t.Error("it matches before the endpoint has consented")
	}
	f.publish(newEvent("early", "T", "s")) // matched by nobody
	token := <-r.confirm
	if err := f.grid.Confirm(context.Background(), "wrong"); !hasCode(err, fault.InvalidRequest) {
		t.Errorf("wrong token: %v", err)
	}
	f.stop() // the window survives a restart
	f.start()
	if err := f.grid.Confirm(context.Background(), token); err != nil {
		t.Fatal(err)
	}
	s = f.awaitState("one", grid.Succeeded)
	if err := f.grid.Confirm(context.Background(), token); !hasCode(err, fault.InvalidRequest) {
		t.Errorf("second use: %v", err)
	}
	f.publish(newEvent("1", "T", "s"))
	r.expect(t, "1")
	for _, want := range []string{"has to consent", "attempt 1 of 3", "without the validation code", "Waiting until", "was opened", "Succeeded"} {
		if !strings.Contains(text(s), want) {
			t.Errorf("the narration lacks %q:\n%s", want, text(s))
		}
	}
	if strings.Contains(text(s), "hidden") || strings.Contains(text(s), token) {
		t.Errorf("the narration shows a secret:\n%s", text(s))
	}
}

func TestConfirmationWindowEnds(t *testing.T) {
	f := newFixture(t)
	f.set.ValidationWindow = time.Second
	f.start()
	r := newReceiver(t)
	r.set(false, 0)
	f.put("one", properties(r.URL))
	f.awaitState("one", grid.AwaitingManualAction)
	token := <-r.confirm
	s := f.awaitState("one", grid.Failed)
	if s.Failure == nil || s.Failure.Code != "Url validation" || !strings.HasPrefix(s.Failure.Message, "Webhook validation handshake failed for ") {
		t.Errorf("failure %+v", s.Failure)
	}
	if err := f.grid.Confirm(context.Background(), token); !hasCode(err, fault.InvalidRequest) {
		t.Errorf("late: %v", err)
	}
}

func TestRefusalAndAnotherTry(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := newReceiver(t)
	r.set(false, 404)
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Failed)
	if !strings.Contains(s.Failure.Message, "404 Not Found") {
		t.Errorf("failure %+v", s.Failure)
	}
	r.set(true, 0)
	f.put("one", properties(r.URL)) // the same request again asks again
	f.awaitState("one", grid.Succeeded)
	f.publish(newEvent("1", "T", "s"))
	r.expect(t, "1")
}

func TestSilentEndpointIsAskedThreeTimes(t *testing.T) {
	f := newFixture(t)
	f.start()
	var asked atomic.Int32
	r := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer r.Close()
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Failed)
	if n := asked.Load(); n != 3 {
		t.Errorf("asked %d times", n)
	}
	if !strings.Contains(text(s), "Trying again") || !strings.Contains(text(s), "attempt 3 of 3") {
		t.Errorf("narration\n%s", text(s))
	}
}

// What is put between Open and Run is asked once, not also as if a restart had
// interrupted it.
func TestPutBeforeRunIsAskedOnce(t *testing.T) {
	f := newFixture(t)
	var asked atomic.Int32
	r := newReceiver(t)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		r.serve(w, q)
	}))
	defer front.Close()
	f.open()
	f.put("one", properties(front.URL))
	f.run()
	f.awaitState("one", grid.Succeeded)
	f.stop() // waits for every task
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// While a new endpoint has not consented, the old one gets the events.
func TestUpdateKeepsTheOldDestination(t *testing.T) {
	f := newFixture(t)
	f.start()
	old, other := newReceiver(t), newReceiver(t)
	other.set(false, 0)
	f.put("one", properties(old.URL))
	f.awaitState("one", grid.Succeeded)
	if s := f.put("one", properties(other.URL)); s.State != grid.Updating {
		t.Errorf("state %s", s.State)
	}
	f.awaitState("one", grid.AwaitingManualAction)
	f.publish(newEvent("1", "T", "s"))
	old.expect(t, "1")
	if err := f.grid.Confirm(context.Background(), <-other.confirm); err != nil {
		t.Fatal(err)
	}
	f.awaitState("one", grid.Succeeded)
	f.publish(newEvent("2", "T", "s"))
	other.expect(t, "2")

	refuses := newReceiver(t)
	refuses.set(false, 500)
	f.put("one", properties(refuses.URL))
	f.awaitState("one", grid.Failed)
	f.publish(newEvent("3", "T", "s"))
	other.expect(t, "3") // a failed change leaves what was in effect
}

// A handshake that a restart interrupted is taken up again.
func TestRestartDuringHandshake(t *testing.T) {
	f := newFixture(t)
	f.start()
	asked := make(chan struct{}, 10)
	var hang atomic.Bool
	hang.Store(true)
	next := newReceiver(t)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked <- struct{}{}
		if hang.Load() {
			_, _ = io.Copy(io.Discard, q.Body) // else the server does not notice that the client is gone
			<-q.Context().Done()
			return
		}
		next.serve(w, q)
	}))
	defer r.Close()
	f.put("one", properties(r.URL))
	<-asked
	f.stop()
	hang.Store(false)
	f.start()
	s := f.awaitState("one", grid.Succeeded)
	if !strings.Contains(text(s), "restarted") {
		t.Errorf("narration\n%s", text(s))
	}
}

func TestCloudEventsHandshakeSetsTheRate(t *testing.T) {
	f := newFixture(t)
	f.start()
	got := make(chan string, 10)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			w.Header().Set("WebHook-Allowed-Rate", "6000")
			return
		}
		got <- q.Header.Get("Content-Type")
	}))
	defer r.Close()
	p := properties(r.URL)
	p.Schema = event.CloudEvents
	f.put("one", p)
	s := f.awaitState("one", grid.Succeeded)
	if !strings.Contains(text(s), "6000 requests per minute") {
		t.Errorf("narration\n%s", text(s))
	}
	f.publish(newEvent("1", "T", "s"))
	if kind := <-got; kind != "application/cloudevents+json; charset=utf-8" {
		t.Errorf("content type %q", kind)
	}
}
