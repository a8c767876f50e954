package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
)

// tail streams events as they are committed, one CloudEvent a line, with an
// empty line from time to time so that both sides notice when the other is
// gone. It ends when the reader leaves, takes too long or the server stops.
func (a *API) tail(q *request) error {
	if err := q.only(); err != nil {
		return err
	}
	if q.r.Method == http.MethodHead {
		q.w.Header().Set("Content-Type", "application/x-ndjson")
		return q.empty(http.StatusOK)
	}
	defer a.tails.Add(-1)
	if a.tails.Add(1) > int64(a.o.MaxTails) {
		return fault.New(fault.TooManyRequests, "%d live tails are open already.", a.o.MaxTails)
	}
	t := a.o.Grid.Tail()
	defer t.Close()
	q.w.Header().Set("Content-Type", "application/x-ndjson")
	s := stream{w: q.w, c: http.NewResponseController(q.w), patience: a.o.TailWrite}
	if s.flush() != nil {
		return nil // the reader is gone already
	}
	beat := make(chan struct{}, 1)
	timer := a.clock.AfterFunc(a.o.Heartbeat, func() { beat <- struct{}{} })
	defer func() { timer.Stop() }()
	for {
		beaten, ok := s.step(q, t, beat)
		if beaten {
			timer = a.clock.AfterFunc(a.o.Heartbeat, func() { beat <- struct{}{} })
		}
		if !ok {
			if t.Missed() > 0 {
				a.log.Info("a live tail was too slow", "missed", t.Missed(), "remote", q.r.RemoteAddr)
			}
			return nil
		}
	}
}

// stream is an answer that is written bit by bit.
type stream struct {
	w        http.ResponseWriter
	c        *http.ResponseController
	patience time.Duration // with the reader
	buf      []byte
}

// maxStep is about how many bytes of events are written at a time.
const maxStep = 64 << 10

// step waits for events or for the heartbeat and writes them. ok is false when
// the stream has ended.
func (s *stream) step(q *request, t *grid.Tail, beat <-chan struct{}) (beaten, ok bool) {
	s.buf = s.buf[:0]
	select {
	case <-q.r.Context().Done():
		return false, false
	case <-beat:
		s.buf = append(s.buf, '\n')
		return true, s.flush() == nil
	case e := <-t.Events():
		s.event(e)
	}
	for len(s.buf) < maxStep {
		select {
		case e := <-t.Events():
			s.event(e)
			continue
		default:
		}
		break
	}
	return false, s.flush() == nil
}

// event adds a line. The data of an event may have been written on several.
func (s *stream) event(e *event.Event) {
	from := len(s.buf)
	s.buf = e.AppendCloudEvent(s.buf)
	if bytes.ContainsAny(s.buf[from:], "\r\n") {
		var line bytes.Buffer
		if json.Compact(&line, s.buf[from:]) != nil {
			s.buf = s.buf[:from] // its data is no JSON, so it is no event
			return
		}
		s.buf = append(s.buf[:from], line.Bytes()...)
	}
	s.buf = append(s.buf, '\n')
}

// flush writes what is there and sends it off.
func (s *stream) flush() error {
	err := s.c.SetWriteDeadline(time.Now().Add(s.patience))
	if errors.Is(err, http.ErrNotSupported) { // not over a real connection
		err = nil
	}
	if err != nil {
		return err
	}
	if _, err := s.w.Write(s.buf); err != nil {
		return err
	}
	return s.c.Flush()
}
