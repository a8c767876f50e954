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
	until    time.Time     // nothing is attempted before
}

// onProbation reports whether at most one attempt may be under way.
func (h *health) onProbation() bool { return h.window > 0 }

// remaining is how long nothing may be attempted.
func (h *health) remaining(now time.Time) time.Duration {
	if h.window == 0 {
		return 0
	}
	return max(0, h.until.Sub(now))
}

// observe learns from the result of an attempt that ended at now.
func (h *health) observe(p *ProbationSettings, r Result, now time.Time) {
	if r.Verdict == Delivered {
		*h = health{}
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
