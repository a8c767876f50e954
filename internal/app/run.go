package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Run serves until ctx ends or something fails for good, and then shuts down
// in order: listeners, connections (DISCONNECT, server shutting down), the
// ledger's last Disconnecteds, HTTP, delivery, store. The shutdown as a whole
// takes at most the configured time. ready, which may be nil, is called once
// everything listens and the progress of deliveries has been read. Run closes the server; it may be called once.
func (s *Server) Run(ctx context.Context, ready func() error) error {
	r := &running{s: s}
	r.services, r.stopServices = context.WithCancel(context.WithoutCancel(ctx))
	r.intake, r.stopIntake = context.WithCancel(context.WithoutCancel(ctx))
	defer r.stopServices()
	defer r.stopIntake()

	r.service("presence", func(ctx context.Context) error { return s.ledger.Run(ctx, nil) })
	r.service("stored sessions", s.stored.Run)
	r.service("sessions", s.broker.Run)
	r.service("memory", s.tidy)
	r.service("clock", func(ctx context.Context) error { return recordClock(ctx, s.engine, s.clock) })
	r.service("registry", s.registry.Run)
	r.service("grid", s.grid.Run)
	r.service("delivery", s.dispatcher.Run)
	r.service("certificates", s.cert.Run)
	for _, ln := range s.listeners.mqtt {
		r.listener("mqtt", ln, func(ctx context.Context) error { return s.accept.TCP(ctx, ln) })
	}
	for _, ln := range s.listeners.mqtts {
		r.listener("mqtts", ln, func(ctx context.Context) error { return s.accept.TLS(ctx, ln, s.cert.TLSConfig()) })
	}
	for _, ln := range s.listeners.http {
		r.listener("http", ln, func(ctx context.Context) error { return s.http.Serve(ctx, ln) })
	}
	for _, ln := range s.listeners.https {
		r.listener("https", ln, func(ctx context.Context) error { return s.http.ServeTLS(ctx, ln, s.cert.TLSConfig()) })
	}
	var err error
	select {
	case <-s.dispatcher.Loaded(): // so that nobody is told of a backlog that is not known yet
	case <-ctx.Done():
	case err = <-s.failed:
	}
	s.ready.Store(true)
	if err == nil && ready != nil {
		err = ready()
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-s.failed:
		}
	}
	s.leaving.Store(true)
	return errors.Join(err, r.shutdown())
}

// running is a server at work.
type running struct {
	s                           *Server
	services, intake            context.Context
	stopServices, stopIntake    context.CancelFunc
	serviceGroup, listenerGroup sync.WaitGroup
}

// service runs a part that works until delivery has ended.
func (r *running) service(name string, run func(context.Context) error) {
	r.serviceGroup.Go(func() {
		if err := run(r.services); err != nil && r.services.Err() == nil {
			r.s.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// listener runs a part that lets work in.
func (r *running) listener(name string, ln net.Listener, run func(context.Context) error) {
	r.listenerGroup.Go(func() {
		if err := run(r.intake); err != nil && r.intake.Err() == nil {
			r.s.fail(fmt.Errorf("listener %s on %s: %w", name, ln.Addr(), err))
		}
	})
}

// shutdown stops everything in order. A step that does not end in time is
// logged and left; the next start finds what it did not finish.
func (r *running) shutdown() error {
	s := r.s
	part := s.cfg.ShutdownTimeout / 5 // the last one is kept for the store
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTimeout-part)
	defer cancel()
	s.log.Info("shutting down", "connections", s.ledger.OpenSessions(), "within", s.cfg.ShutdownTimeout)
	step := func(name string, share time.Duration, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, share)
		defer cancel()
		if err := f(ctx); err != nil {
			s.log.Warn("a step of the shutdown was cut short", "step", name, "err", err)
		}
	}
	step("listeners", part, func(ctx context.Context) error {
		r.stopIntake()
		return wait(ctx, &r.listenerGroup)
	})
	step("connections", part, func(ctx context.Context) error {
		s.broker.Shutdown()
		return s.ledger.Drain(ctx)
	})
	step("http", part, s.http.Shutdown)
	step("services", s.cfg.ShutdownTimeout, func(ctx context.Context) error {
		r.stopServices()
		return wait(ctx, &r.serviceGroup)
	})
	step("connections closed", part, func(ctx context.Context) error {
		if !s.accept.Wait(ctx) {
			return context.Cause(ctx)
		}
		return nil
	})
	s.webhooks.Close()
	if err := within(part, func() error { return errors.Join(s.registry.Close(), s.engine.Close()) }); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	s.log.Info("shut down")
	return nil
}

// within calls f and returns its error, or one that says that it took too long.
func within(d time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // ends with f, or with the process
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("not done after %v", d)
	}
}

func wait(ctx context.Context, g *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { // ends with the group, or with the process
		g.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
