package grid_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	if err := f.grid.Confirm(context.Background(), "wrong", nil); !hasCode(err, fault.InvalidRequest) {
		t.Errorf("wrong token: %v", err)
	}
	f.stop() // the window survives a restart
	f.start()
	if err := f.grid.Confirm(context.Background(), token, nil); err != nil {
		t.Fatal(err)
	}
	s = f.awaitState("one", grid.Succeeded)
	if err := f.grid.Confirm(context.Background(), token, nil); !hasCode(err, fault.InvalidRequest) {
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

// A validation URL under a CA of our own is told with what to trust.
func TestWhatToTrustIsTold(t *testing.T) {
	f := newFixture(t)
	f.base, f.trust = "https://127.0.0.1:1", "/data/pki/ca.crt"
	f.start()
	r := newReceiver(t)
	r.set(false, 0)
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.AwaitingManualAction)
	if told := text(s); !strings.Contains(told, "has to trust /data/pki/ca.crt.") {
		t.Errorf("the narration is\n%s", told)
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
	} else if !strings.HasSuffix(s.Failure.Message, "(within 1 second).") {
		t.Errorf("the window of 1 s is told as %q", s.Failure.Message)
	}
	if err := f.grid.Confirm(context.Background(), token, nil); !hasCode(err, fault.InvalidRequest) {
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
	if err := f.grid.Confirm(context.Background(), <-other.confirm, nil); err != nil {
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

// An endpoint that cannot answer just now is asked again, after the time that
// it asks for, as one that does not answer at all is.
func TestTemporaryAnswersAreAskedAgain(t *testing.T) {
	f := newFixture(t)
	f.set.ValidationPause = time.Millisecond
	f.start()
	for _, status := range []int{408, 429, 502, 503, 504} {
		for _, schema := range []event.Schema{event.EventGrid, event.CloudEvents} {
			name := fmt.Sprintf("status-%d-%d", status, schema)
			var asked atomic.Int64
			r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				body, _ := io.ReadAll(q.Body)
				if asked.Add(1) < 3 {
					if status == 503 {
						w.Header().Set("Retry-After", "1")
					}
					w.WriteHeader(status)
					return
				}
				w.Header().Set("WebHook-Allowed-Origin", "*")
				var events []struct {
					Data struct{ ValidationCode string }
				}
				if json.Unmarshal(body, &events) == nil && len(events) == 1 {
					_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
				}
			}))
			p := properties(r.URL)
			p.Schema = schema
			f.put(name, p)
			s := f.awaitState(name, grid.Succeeded)
			want := "Trying again in 1ms"
			if status == 503 {
				want = "Trying again in 1s"
			}
			if n := asked.Load(); n != 3 || strings.Count(text(s), want) != 2 {
				t.Errorf("%s: asked %d times:\n%s", name, n, text(s))
			}
			r.Close()
		}
	}
}

// An endpoint that wants to be asked again after the time to confirm is over is
// not waited for.
func TestTemporaryAnswerBeyondTheWindow(t *testing.T) {
	f := newFixture(t)
	f.start()
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(503)
	}))
	defer r.Close()
	f.put("one", properties(r.URL))
	s := f.awaitState("one", grid.Failed)
	if s.Failure == nil || !strings.Contains(s.Failure.Message, "503 Service Unavailable") {
		t.Errorf("failure %+v", s.Failure)
	}
}

// What an endpoint says when it consents later counts as if it had said it at
// once: whom it allows, and how much.
func TestConsentByCallbackSaysWhomAndHowMuch(t *testing.T) {
	f := newFixture(t)
	f.start()
	callbacks := make(chan string, 1)
	r := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		if u, err := url.Parse(q.Header.Get("WebHook-Request-Callback")); err == nil && q.Method == http.MethodOptions {
			callbacks <- u.Query().Get("token")
		}
	}))
	defer r.Close()
	p := properties(r.URL)
	p.Schema = event.CloudEvents
	f.put("one", p)
	token := <-callbacks
	f.awaitState("one", grid.AwaitingManualAction)
	said := http.Header{}
	said.Set("WebHook-Allowed-Origin", "somebody.example")
	if err := f.grid.Confirm(context.Background(), token, said); !hasCode(err, fault.InvalidRequest) {
		t.Errorf("another origin: %v", err)
	}
	said.Set("WebHook-Allowed-Origin", "eventgrid.azure.net")
	said.Set("WebHook-Allowed-Rate", "120")
	if err := f.grid.Confirm(context.Background(), token, said); err != nil {
		t.Fatal(err)
	}
	s := f.awaitState("one", grid.Succeeded)
	if !strings.Contains(text(s), "allows 120 requests per minute") {
		t.Errorf("the narration lacks the rate:\n%s", text(s))
	}
}
