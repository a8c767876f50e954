package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/servertest"
)

// receiver is the webhook endpoint, in a process of its own. It does as little
// as it can: read, count, note when.
type receiver struct {
	requests, events, last atomic.Int64 // last: when the last request came, Unix nanoseconds
	recording              atomic.Bool
	hold                   atomic.Pointer[chan struct{}] // not nil: answers wait until it is closed

	mu       sync.Mutex
	arrivals []arrival
}

// arrival is an event that came while recording.
type arrival struct {
	Session string `json:"s"`
	Ended   bool   `json:"d"` // Disconnected rather than Connected
	Time    int64  `json:"t"` // of the event, Unix nanoseconds
	At      int64  `json:"a"` // when it came
}

// tally is what came since the last reset.
type tally struct {
	Requests, Events, Last int64
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// specversion is once in every CloudEvent.
var specversion = []byte(`"specversion"`)

func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	at := time.Now()
	if req.Method == http.MethodOptions {
		w.Header().Set("WebHook-Allowed-Origin", req.Header.Get("WebHook-Request-Origin"))
		w.Header().Set("WebHook-Allowed-Rate", "*")
		return
	}
	b := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(b)
	b.Reset()
	if _, err := b.ReadFrom(req.Body); err != nil {
		return // the sender gave up
	}
	if hold := r.hold.Load(); hold != nil {
		select {
		case <-*hold:
		case <-req.Context().Done():
			return
		}
		at = time.Now()
	}
	if r.recording.Load() {
		r.record(b.Bytes(), at)
	}
	r.requests.Add(1)
	r.events.Add(int64(bytes.Count(b.Bytes(), specversion)))
	r.last.Store(at.UnixNano())
}

func (r *receiver) record(body []byte, at time.Time) {
	var e struct {
		Type string
		Time time.Time
		Data struct{ ClientSessionName string }
	}
	if json.Unmarshal(body, &e) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrivals = append(r.arrivals, arrival{
		Session: e.Data.ClientSessionName, Ended: strings.HasSuffix(e.Type, "Disconnected"),
		Time: e.Time.UnixNano(), At: at.UnixNano(),
	})
}

// control does what the measuring process asks for.
func (r *receiver) control(w http.ResponseWriter, req *http.Request) {
	var answer any = struct{}{}
	switch what := strings.TrimPrefix(req.URL.Path, "/control/"); what {
	case "tally":
		answer = tally{r.requests.Load(), r.events.Load(), r.last.Load()}
	case "reset":
		r.requests.Store(0)
		r.events.Store(0)
		r.mu.Lock()
		r.arrivals = nil
		r.mu.Unlock()
	case "record", "forget":
		r.recording.Store(what == "record")
	case "arrivals":
		r.mu.Lock()
		defer r.mu.Unlock()
		answer = r.arrivals
	case "hold":
		gate := make(chan struct{})
		r.hold.Store(&gate)
	case "release":
		if gate := r.hold.Swap(nil); gate != nil {
			close(*gate)
		}
	default:
		http.NotFound(w, req)
		return
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return // the other process has gone
	}
}

// serveReceiver is the receiver's process: it prints its URL and serves until
// its input ends, that is, until its parent has.
func serveReceiver(in io.Reader, out io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r, mux := &receiver{}, http.NewServeMux()
	mux.HandleFunc("/control/", r.control)
	mux.HandleFunc("/events", r.take)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	if _, err := fmt.Fprintf(out, "http://%s\n", ln.Addr()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	err = errors.Join(err, srv.Close())
	if e := <-done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// remote is the receiver as the measuring process sees it.
type remote struct {
	*process
	url  string
	pipe io.Closer // its input; closing it ends the process
}

func (b *bench) receive() (_ *remote, err error) {
	in, inEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	outEnd, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inEnd.Close())
	}
	defer outEnd.Close()
	p, err := b.self("receiver", in, out)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, errors.Join(err, inEnd.Close())
	}
	line, err := bufio.NewReader(outEnd).ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, inEnd.Close())
	}
	return &remote{process: p, url: strings.TrimSpace(line), pipe: inEnd}, nil
}

// close ends the receiver's process.
func (r *remote) close() {
	r.pipe.Close()
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.kill()
	}
}

// events is where webhooks go.
func (r *remote) events() string { return r.url + "/events" }

// ask makes the receiver do something; out may be nil.
func (r *remote) ask(ctx context.Context, what string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/control/"+what, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("receiver: %s: %d", what, res.StatusCode)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// wait waits until so many events came since the last reset.
func (r *remote) wait(ctx context.Context, events int) (tally, error) {
	var t tally
	err := until(ctx, 5*time.Millisecond, func() (bool, error) {
		err := r.ask(ctx, "tally", &t)
		return t.Events >= int64(events), err
	})
	if err != nil {
		return t, fmt.Errorf("%d of %d events came: %w", t.Events, events, err)
	}
	return t, nil
}

// subscribe makes so many event subscriptions to the receiver. batch is the
// most events of one request; at most 1: no batches.
func (s *server) subscribe(ctx context.Context, r *remote, n, batch int) error {
	more := map[string]any{}
	if batch > 1 {
		more["destination"] = map[string]any{"maxEventsPerBatch": batch, "preferredBatchSizeInKilobytes": 1024}
	}
	for i := range n {
		if err := servertest.Subscribe(ctx, s.info, fmt.Sprintf("bench-%d", i), r.events(), more); err != nil {
			return err
		}
	}
	return nil
}
