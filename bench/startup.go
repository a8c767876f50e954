package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"rollcall/internal/servertest"
)

const mebi = 1 << 20

// size is how large the binary is.
func size(_ context.Context, b *bench) error {
	st, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	b.report.add("binary", "MiB", float64(st.Size())/mebi)
	return nil
}

// startup starts a server on an empty directory, stops it, starts it again,
// kills it while sessions are open, and starts it once more.
func startup(ctx context.Context, b *bench) error {
	for range 2*b.reps - 1 { // it is short: repeat it more often
		if err := b.startupOnce(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startupOnce(ctx context.Context) error {
	data, sessions := b.data(), b.scaled(2000)
	ready := func(name string, s *server) {
		b.report.add(name, "ms", milliseconds(s.ready)).atMost(150)
	}
	s, err := b.serve(ctx, data)
	if err != nil {
		return err
	}
	ready("ready, first start", s)
	if err := s.stop(); err != nil {
		return fmt.Errorf("stop: %w\n%s", err, s.printed())
	}
	if s, err = b.serve(ctx, data); err != nil {
		return err
	}
	ready("ready, clean restart", s)
	f := fleet{target: servertest.Target(s.info, "tcp"), prefix: "start"}
	devices, err := f.open(ctx, 0, sessions)
	s.kill()
	if err != nil {
		return err
	}
	shut(devices)
	began := time.Now()
	if s, err = b.serve(ctx, data); err != nil {
		return err
	}
	defer s.kill()
	ready(fmt.Sprintf("ready, after a crash with %d sessions open", sessions), s)
	if err := s.empty(ctx); err != nil {
		return err
	}
	b.report.add("all of them closed in the ledger, from the start", "ms", milliseconds(time.Since(began)))
	return s.stop()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
