package delivery

import (
	"net/http"
	"time"
)

// backoff returns how long to wait after attempt n (the first is 1) ended with
// r. Random is uniform in [0, 1). Probation is what is left of the
// destination's probation, 0 if there is none.
func (s *Settings) backoff(n int, r Result, random float64, probation time.Duration) time.Duration {
	step := s.Schedule[min(max(n, 1), len(s.Schedule))-1]
	d := time.Duration(float64(step) * (1 + s.Jitter*random))
	return max(d, s.floor(r), min(r.RetryAfter, s.RetryAfterCap), probation)
}

// floor is the least delay after a failure of this kind.
func (s *Settings) floor(r Result) time.Duration {
	switch r.Status {
	case http.StatusRequestTimeout:
		return s.TimeoutFloor
	case http.StatusServiceUnavailable:
		return s.BusyFloor
	}
	return s.RetryFloor
}

// window is the first probation window after a failure with outcome o, 0 if it
// does not lead to probation.
func (p *ProbationSettings) window(o Outcome) time.Duration {
	switch o {
	case Busy:
		return p.Busy
	case TimedOut:
		return p.TimedOut
	case SocketError:
		return p.SocketError
	case NotFound, ResolutionError, Disabled, Unauthorized, Forbidden:
		return p.Other
	}
	return 0
}

// health is what a subscription knows of its destination. The zero value is
// healthy.
type health struct {
	failures int           // consecutive failures of kinds that count
	window   time.Duration // current probation window, 0: not on probation
	until    time.Time     // while on probation: nothing is attempted before

	// asked is until when the destination asked to be left alone, the zero time
	// if it did not or has answered a probe since.
	asked time.Time
}

// onProbation reports whether the destination is held back for its failures.
func (h *health) onProbation() bool { return h.window > 0 }

// single reports whether at most one attempt may be under way.
func (h *health) single() bool { return h.onProbation() || !h.asked.IsZero() }

// heldUntil is the time before which nothing may be attempted; it may be past.
func (h *health) heldUntil() time.Time {
	if h.onProbation() && h.until.After(h.asked) {
		return h.until
	}
	return h.asked
}

// remaining is how long nothing may be attempted.
func (h *health) remaining(now time.Time) time.Duration {
	if !h.single() {
		return 0
	}
	return max(0, h.heldUntil().Sub(now))
}

// observe learns from the result of an attempt that began and ended then. What
// an answer asks for is at most wait.
func (h *health) observe(p *ProbationSettings, r Result, began, now time.Time, wait time.Duration) {
	h.heed(r, began, now, wait)
	if r.Verdict == Delivered {
		*h = health{asked: h.asked}
		return
	}
	first := p.window(r.Outcome)
	if !p.Enabled || first == 0 {
		return
	}
	h.failures++
	switch {
	case h.failures < p.Threshold:
	case h.window == 0:
		h.window = min(first, p.Cap)
		h.until = now.Add(h.window)
	case !now.Before(h.until): // a probe; answers to older attempts change nothing
		h.window = min(2*h.window, p.Cap)
		h.until = now.Add(h.window)
	}
}

// heed does what an answer with Retry-After asks for: the destination is left
// alone, not only the event (HTTP 1.1 Web Hooks for Event Delivery, 2.2). Then
// one attempt is made, whose answer decides how it goes on; answers to attempts
// that were under way before change nothing.
func (h *health) heed(r Result, began, now time.Time, wait time.Duration) {
	switch {
	case r.Verdict != Delivered && r.RetryAfter > 0:
		if until := now.Add(min(r.RetryAfter, wait)); until.After(h.asked) {
			h.asked = until
		}
	case !began.Before(h.asked):
		h.asked = time.Time{}
	}
}
