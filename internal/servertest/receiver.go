package servertest

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/audit"
)

// Request is one request that a Receiver got.
type Request struct {
	At     time.Time
	Path   string
	Header http.Header
	Body   []byte
	Status int // what was answered
}

// Receiver is a webhook endpoint: it consents to both handshakes, records what
// it gets, and fails as often as it is told to.
type Receiver struct {
	URL string

	server *httptest.Server

	mu       sync.Mutex
	random   *rand.Rand
	failure  float64
	answer   func(r *http.Request, body []byte) int // nil: 200
	requests []Request
	got      []audit.Delivery
	asked    int           // requests for consent
	more     chan struct{} // closed at the next request
}

// NewReceiver starts a receiver that lives as long as the test.
func NewReceiver(t testing.TB) *Receiver {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Receiver{more: make(chan struct{}), random: rand.New(rand.NewPCG(1, 2))}
	r.server = &httptest.Server{Listener: ln, Config: &http.Server{Handler: r}}
	r.server.Start()
	r.URL = r.server.URL + "/events"
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// Fail makes a share of the deliveries fail from now on: with 503, 500, 429 or
// a broken connection.
func (r *Receiver) Fail(share float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = share
}

// Answer makes f decide the status of every delivery from now on.
func (r *Receiver) Answer(f func(r *http.Request, body []byte) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodOptions {
		r.countAsked()
		w.Header().Set("WebHook-Allowed-Origin", req.Header.Get("WebHook-Request-Origin"))
		w.Header().Set("WebHook-Allowed-Rate", "*")
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the server gave up
	}
	if req.Header.Get("aeg-event-type") == "SubscriptionValidation" {
		r.countAsked()
		var events []struct {
			Data struct{ ValidationCode string }
		}
		if json.Unmarshal(body, &events) != nil || len(events) != 1 {
			http.Error(w, "no validation event", http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"validationResponse": events[0].Data.ValidationCode})
		return
	}
	status := r.judge(req, body)
	r.record(req, body, status)
	if status == 0 {
		panic(http.ErrAbortHandler) // break the connection
	}
	w.WriteHeader(status)
}

func (r *Receiver) countAsked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
}

// Asked is how often it was asked for its consent.
func (r *Receiver) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *Receiver) judge(req *http.Request, body []byte) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answer != nil {
		return r.answer(req, body)
	}
	if r.random.Float64() < r.failure {
		return []int{503, 500, 429, 0}[r.random.IntN(4)]
	}
	return http.StatusOK
}

func (r *Receiver) record(req *http.Request, body []byte, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.requests = append(r.requests, Request{At: now, Path: req.URL.Path, Header: req.Header.Clone(), Body: body, Status: status})
	if status == http.StatusOK && req.Header.Get("aeg-event-type") == "Notification" {
		events := []json.RawMessage{body}
		if strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
			events = nil
			if json.Unmarshal(body, &events) != nil {
				events = []json.RawMessage{body}
			}
		}
		for i, e := range events {
			d := audit.Delivery{At: now, Subscription: req.Header.Get("aeg-subscription-name"), Event: e}
			if i == 0 && len(events) == 1 {
				d.OutputID = req.Header.Get("aeg-output-event-id")
			}
			r.got = append(r.got, d)
		}
	}
	close(r.more)
	r.more = make(chan struct{})
}

// Deliveries are the events of the requests that were answered with 200.
func (r *Receiver) Deliveries() []audit.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Delivery(nil), r.got...)
}

// Requests are all deliveries attempted.
func (r *Receiver) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request(nil), r.requests...)
}

// Reset forgets what came.
func (r *Receiver) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.got = nil, nil
}

// Wait waits until ok says that what came is enough, and fails the test if
// that takes too long.
func (r *Receiver) Wait(t testing.TB, ok func([]audit.Delivery) bool) {
	t.Helper()
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		done, more := ok(r.got), r.more
		n := len(r.got)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-more:
		case <-timeout.C:
			t.Fatalf("what is expected does not come; %d events came", n)
		}
	}
}

// Event is what tests look at of a session event.
type Event struct {
	ID, Type, Subject, Session, Owner, Reason string
	Number                                    uint64
	Time                                      time.Time
}

// Events decodes the events of a session that came to a subscription (empty:
// any), repeats left out.
func Events(ds []audit.Delivery, subscription, session string) []Event {
	var all []Event
	seen := map[string]bool{}
	for _, d := range ds {
		var e struct {
			ID, Type, Subject, EventType string
			Time, EventTime              time.Time
			Data                         struct {
				ClientSessionName, ClientAuthenticationName, DisconnectionReason string
				SequenceNumber                                                   uint64
			}
		}
		if json.Unmarshal(d.Event, &e) != nil || subscription != "" && d.Subscription != subscription ||
			session != "" && e.Data.ClientSessionName != session || seen[e.ID] {
			continue
		}
		seen[e.ID] = true
		if e.Type == "" {
			e.Type, e.Time = e.EventType, e.EventTime
		}
		all = append(all, Event{
			ID: e.ID, Type: e.Type, Subject: e.Subject, Session: e.Data.ClientSessionName, Owner: e.Data.ClientAuthenticationName,
			Reason: e.Data.DisconnectionReason, Number: e.Data.SequenceNumber, Time: e.Time,
		})
	}
	return all
}

// Ended waits for the n-th Disconnected of a session and returns it.
func (r *Receiver) Ended(t testing.TB, session string, n uint64) Event {
	t.Helper()
	var found Event
	r.Wait(t, func(ds []audit.Delivery) bool {
		for _, e := range Events(ds, "", session) {
			if e.Number == n && strings.HasSuffix(e.Type, "SessionDisconnected") {
				found = e
				return true
			}
		}
		return false
	})
	return found
}
