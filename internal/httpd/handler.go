package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"rollcall/internal/fault"
)

// ServeHTTP implements http.Handler: every request of every listener.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw}
	began := s.opts.Clock.Monotonic()
	r = cleaned(r)
	s.setHeaders(w.Header(), r)
	defer func() {
		p := recover()
		cut := p != nil && w.status != 0
		err, _ := p.(error)
		abort := errors.Is(err, http.ErrAbortHandler)
		if p != nil && !abort {
			s.panicked(w, r, p)
		}
		s.account(w, r, began)
		if cut || abort {
			panic(http.ErrAbortHandler) // let the peer see that the answer is not whole
		}
	}()
	if isRead(r.Method) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.leaving, cancel)()
		r = r.WithContext(ctx)
	}
	if reason, e := s.admit(w, r); e != nil {
		s.metrics.refused.WithLabelValues(reason).Inc()
		if s.opts.Refused != nil && s.isMQTT(r) {
			text := e.Message
			switch origin := r.Header.Get("Origin"); {
			case reason == "origin" && origin != "":
				text = fmt.Sprintf("a page of %.100q, which access.origins does not name", origin)
			case reason == "origin":
				text = "a page of another origin, as Sec-Fetch-Site says"
			}
			s.opts.Refused(r, "websocket_"+reason, text)
		}
		WriteError(w, e)
		return
	}
	if s.authorize(r, false) == nil {
		r = r.WithContext(context.WithValue(r.Context(), trusted{}, true))
	}
	s.route(r).ServeHTTP(w, r)
	if w.status == 0 { // a handler that wrote nothing answered 200
		w.status = http.StatusOK
	}
}

// admit applies the rules that hold for every request, and bounds its body.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (reason string, e *fault.Error) {
	if e := s.checkHost(r); e != nil {
		return "host", e
	}
	if e := s.checkOrigin(r); e != nil {
		return "origin", e
	}
	if r.ContentLength != 0 {
		// A peer that sends too slowly is cut. The error is for connections
		// that have no deadlines, which those we accept do.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.BodyTimeout))
	}
	if !s.open(r) {
		if e := s.authorize(r, isRead(r.Method)); e != nil {
			return "token", e
		}
	}
	if r.ContentLength > s.opts.MaxBodyBytes {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // or net/http would read on before it answers
		}
		return "body", fault.New(fault.TooLarge, "The body has %d bytes; at most %d are taken.", r.ContentLength, s.opts.MaxBodyBytes)
	}
	r.Body = http.MaxBytesReader(w, r.Body, s.opts.MaxBodyBytes)
	return "", nil
}

// open reports whether anyone may make the request: its route is harmless or
// asks for a proof of its own.
func (s *Server) open(r *http.Request) bool {
	switch r.URL.Path {
	case "/healthz", "/readyz":
		return true
	}
	return s.isMQTT(r) || s.exempt(r)
}

// isMQTT reports whether r is for MQTT over WebSocket, which is at /mqtt, at
// /ws, and where clients that are not told a path look for it: at /, which is
// somebody else's for requests that are no WebSocket handshakes.
func (s *Server) isMQTT(r *http.Request) bool {
	if s.opts.WebSocket == nil {
		return false
	}
	switch r.URL.Path {
	case "/mqtt", "/ws":
		return true
	case "/", "":
		return r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	}
	return false
}

// route returns the handler of a path.
func (s *Server) route(r *http.Request) http.Handler {
	switch path := r.URL.Path; {
	case s.isMQTT(r):
		return s.opts.WebSocket
	case path == "/metrics" && s.opts.Metrics != nil:
		return readOnly(s.opts.Metrics.ServeHTTP)
	case path == "/healthz":
		return readOnly(func(w http.ResponseWriter, _ *http.Request) { WriteText(w, http.StatusOK, "ok") })
	case path == "/readyz":
		return readOnly(s.readiness)
	}
	return s.opts.Handler
}

// readiness says whether we take work. Why not is for this machine only.
func (s *Server) readiness(w http.ResponseWriter, r *http.Request) {
	switch err := s.opts.Ready(); {
	case err == nil:
		WriteText(w, http.StatusOK, "ready")
	case s.Local(r):
		WriteText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
	default:
		WriteText(w, http.StatusServiceUnavailable, "not ready")
	}
}

func readOnly(f http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isRead(r.Method) {
			w.Header().Set("Allow", "GET, HEAD")
			WriteError(w, fault.New(fault.MethodNotAllowed, "This can only be read."))
			return
		}
		f(w, r)
	})
}

// WriteText answers with a line of text.
func WriteText(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n") // if the peer is gone there is nobody to tell
}

// cleaned returns r with repeated slashes of its path made one: some clients
// send them and do not follow redirects. Escaped slashes stay.
func cleaned(r *http.Request) *http.Request {
	path := r.URL.EscapedPath()
	if !strings.Contains(path, "//") {
		return r
	}
	var b strings.Builder
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			b.WriteByte(path[i])
		}
	}
	plain, err := url.PathUnescape(b.String())
	if err != nil { // it was escaped correctly before
		return r
	}
	u := *r.URL
	u.Path, u.RawPath = plain, b.String()
	clean := *r
	clean.URL = &u
	return &clean
}

// setHeaders names the request and tells browsers not to do clever things with
// the answer.
func (s *Server) setHeaders(h http.Header, r *http.Request) {
	id := s.opts.NewID()
	h.Set(RequestID, id)
	correlation := r.Header.Get(CorrelationID)
	if !isID(correlation) {
		correlation = id
	}
	h.Set(CorrelationID, correlation)
	if client := r.Header.Get("X-Ms-Client-Request-Id"); isID(client) && strings.EqualFold(r.Header.Get("X-Ms-Return-Client-Request-Id"), "true") {
		h.Set("X-Ms-Client-Request-Id", client)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

// isID reports whether an id that a peer sent is fit to be sent back.
func isID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	return strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.{}") == ""
}

func (s *Server) panicked(w *response, r *http.Request, p any) {
	s.metrics.panics.Inc()
	s.log.Error("panic while a request was handled", "request", w.Header().Get(RequestID), "method", r.Method, "path", r.URL.Path,
		"err", p, "stack", string(debug.Stack()))
	if w.status == 0 {
		WriteError(w, fault.New(fault.Internal, "Internal error; the server's log has the details under request %s.", w.Header().Get(RequestID)))
	}
}

func (s *Server) account(w *response, r *http.Request, began time.Duration) {
	took := s.opts.Clock.Monotonic() - began
	route := routeOf(r.URL.Path)
	s.metrics.requests.WithLabelValues(route, statusClass(max(w.status, 100))).Inc()
	s.metrics.seconds.WithLabelValues(route).Observe(took.Seconds())
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		s.log.Debug("request", "request", w.Header().Get(RequestID), "method", r.Method, "path", r.URL.Path, "status", w.status,
			"bytes", w.bytes, "took", took, "remote", r.RemoteAddr)
	}
}
