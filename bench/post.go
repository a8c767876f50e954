package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// sample is an event as it is delivered, for what is compared with deliveries.
const sample = `{"specversion":"1.0","id":"0d9ff7a8-63f8-4c65-a0b4-9b3f3c3b0001","time":"2026-01-01T00:00:00.0000000Z",` +
	`"type":"Microsoft.EventGrid.MQTTClientSessionConnected",` +
	`"source":"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rollcall/providers/Microsoft.EventGrid/namespaces/default",` +
	`"subject":"clients/connect-000001/sessions/connect-000001",` +
	`"data":{"namespaceName":"default","clientAuthenticationName":"connect-000001","clientSessionName":"connect-000001","sequenceNumber":1}}`

// posted is what the bare client did.
type posted struct {
	Requests int
	Seconds  float64
	CPU      time.Duration // of its process
}

// postForever is the bare client's process: it posts the sample to -url on
// -connections connections for -time, and prints what came of it as JSON.
func postForever(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("post", flag.ContinueOnError)
	url := f.String("url", "", "where to post")
	connections := f.Int("connections", 32, "requests under way at once")
	d := f.Duration("time", time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *d)
	defer cancel()
	tr := &http.Transport{MaxIdleConnsPerHost: *connections, DisableCompression: true}
	defer tr.CloseIdleConnections()
	var (
		done   atomic.Int64
		wg     sync.WaitGroup
		failed = make(chan error, *connections)
		began  = time.Now()
	)
	for range *connections {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := post(ctx, tr, *url); err != nil {
					if ctx.Err() == nil {
						failed <- err
					}
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	select {
	case err := <-failed:
		return err
	default:
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(posted{
		Requests: int(done.Load()), Seconds: seconds,
		CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano()),
	})
}

func post(ctx context.Context, tr *http.Transport, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(sample)))
	if err != nil {
		return err
	}
	req.Header["Content-Type"] = []string{"application/cloudevents+json; charset=utf-8"}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err = io.Copy(io.Discard, res.Body); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}

// bare runs the bare client's process.
func (b *bench) bare(url string, connections int, d time.Duration) (posted, error) {
	var p posted
	outEnd, out, err := os.Pipe()
	if err != nil {
		return p, err
	}
	defer outEnd.Close()
	c, err := b.self("post", nil, out, "-url", url, "-connections", fmt.Sprint(connections), "-time", d.String())
	if err = errors.Join(err, out.Close()); err != nil {
		return p, err
	}
	defer c.kill()
	if err := json.NewDecoder(outEnd).Decode(&p); err != nil {
		return p, fmt.Errorf("the bare client: %w\n%s", err, c.printed())
	}
	return p, nil
}
