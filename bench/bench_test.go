package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		in   []time.Duration
		q    float64
		want time.Duration
	}{{nil, 0.5, 0}, {hundred[:1], 0.99, 1}, {hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.999, 100}, {hundred, 1, 100}} {
		if got := quantile(c.in, c.q); got != c.want {
			t.Errorf("quantile(%d values, %v) = %d, want %d", len(c.in), c.q, got, c.want)
		}
	}
}

func TestParseCPU(t *testing.T) {
	// The name of a process may hold blanks and parentheses.
	stat := "12 (a b) c) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1 1"
	got, err := parseCPU([]byte(stat))
	if err != nil || got != 3*time.Second {
		t.Errorf("got %v, %v, want 3s", got, err)
	}
	if _, err := parseCPU([]byte("12 (x) S 1")); err == nil {
		t.Error("a line cut short is no error")
	}
}

func TestParseResident(t *testing.T) {
	got, err := parseResident([]byte("Name:\tx\nVmHWM:\t 900 kB\nVmRSS:\t    512 kB\n"))
	if err != nil || got != 512*1024 {
		t.Errorf("got %v, %v, want %d", got, err, 512*1024)
	}
	if _, err := parseResident([]byte("Name:\tx\n")); err == nil {
		t.Error("no VmRSS is no error")
	}
}

func TestFlags(t *testing.T) {
	for _, args := range []string{"-reps 0", "-scale 0", "-scale NaN", "-only nothing", "-settle -1s", "more"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s is taken", args)
		}
	}
	s, err := parse([]string{"-only", "size, latency"})
	if err != nil || len(s.only) != 2 || !s.only["latency"] {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestAim(t *testing.T) {
	var r report
	r.begin("one", "about", "0 0 0")
	r.add("low", "ms", 9).atMost(10)
	r.add("high", "ms", 12).atMost(10)
	r.add("share", "", 0.6).atLeast(0.5)
	var out bytes.Buffer
	r.table(&out, "one")
	for _, want := range []string{"≤ 10 met", "≤ 10 MISSED", "≥ 0.50 met"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestReceiver: the receiver consents, counts events, holds answers back, and
// notes when which event came.
func TestReceiver(t *testing.T) {
	rc, mux := &receiver{}, http.NewServeMux()
	mux.HandleFunc("/control/", rc.control)
	mux.HandleFunc("/events", rc.take)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	r := &remote{url: srv.URL}
	ctx := t.Context()
	send := func(body string) error {
		res, err := http.Post(r.events(), "application/json", strings.NewReader(body))
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	ask := func(what string, out any) {
		t.Helper()
		if err := r.ask(ctx, what, out); err != nil {
			t.Fatal(err)
		}
	}
	ask("record", nil)
	ask("hold", nil)
	sent := make(chan error, 1)
	go func() { sent <- send(sample) }()
	var none tally
	ask("tally", &none)
	if none.Events != 0 {
		t.Errorf("%d events were counted while answers are held", none.Events)
	}
	ask("release", nil)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	var arrivals []arrival
	ask("arrivals", &arrivals)
	if len(arrivals) != 1 || arrivals[0].Session != "connect-000001" || arrivals[0].Ended || arrivals[0].At <= arrivals[0].Time {
		t.Errorf("got %+v", arrivals)
	}
	ask("forget", nil)
	if err := send("[" + sample + "," + sample + "]"); err != nil {
		t.Fatal(err)
	}
	got, err := r.wait(ctx, 3)
	if err != nil || got.Events != 3 || got.Requests != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	ask("reset", nil)
	ask("tally", &got)
	if got.Events != 0 {
		t.Errorf("%d events after a reset", got.Events)
	}
}

// TestReceiverEnds: the process's function ends when its input does.
func TestReceiverEnds(t *testing.T) {
	in, end := io.Pipe()
	out, text := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- serveReceiver(in, text) }()
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "http://127.0.0.1:") {
		t.Fatalf("got %q, %v", line[:n], err)
	}
	end.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPost: the bare client posts until its time is over.
func TestPost(t *testing.T) {
	rc := &receiver{}
	srv := httptest.NewServer(http.HandlerFunc(rc.take))
	defer srv.Close()
	var out bytes.Buffer
	if err := postForever(t.Context(), []string{"-url", srv.URL, "-connections", "2", "-time", "50ms"}, &out); err != nil {
		t.Fatal(err)
	}
	var p posted
	if err := json.Unmarshal(out.Bytes(), &p); err != nil || p.Requests == 0 || p.Seconds < 0.05 || p.CPU <= 0 {
		t.Errorf("got %+v, %v", p, err)
	}
	if n := rc.requests.Load(); n < int64(p.Requests) {
		t.Errorf("%d requests were counted by the client and %d came", p.Requests, n)
	}
	if err := postForever(t.Context(), []string{"-url", "http://127.0.0.1:1", "-time", "5s"}, &out); err == nil {
		t.Error("a receiver that is not there is no error")
	}
}

func TestWrite(t *testing.T) {
	var r report
	r.begin("one", "about", "0 0 0")
	r.add("figure", "ms", 1)
	r.add("figure", "ms", 2)
	file := filepath.Join(t.TempDir(), "out.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(text, &back); err != nil || len(back.Scenarios[0].Figures[0].Values) != 2 {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestUntil(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := until(ctx, time.Millisecond, func() (bool, error) { n++; return n == 3, nil }); err != nil || n != 3 {
		t.Errorf("got %v after %d calls", err, n)
	}
	cancel()
	if err := until(ctx, time.Millisecond, func() (bool, error) { return false, nil }); err == nil {
		t.Error("it waits although nobody does any more")
	}
}
