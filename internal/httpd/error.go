package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"

	"rollcall/internal/fault"
)

// The headers that name a request.
const (
	RequestID     = "X-Ms-Request-Id"
	CorrelationID = "X-Ms-Correlation-Request-Id"
)

type errorJSON struct {
	Code    fault.Code  `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []errorJSON `json:"details,omitempty"`
}

// WriteError answers with e in the form of the resource manager.
func WriteError(w http.ResponseWriter, e *fault.Error) {
	body := errorJSON{Code: e.Code, Message: e.Message, Target: e.Target}
	for _, d := range e.Details {
		body.Details = append(body.Details, errorJSON{Code: d.Code, Message: d.Message, Target: d.Target})
	}
	h := w.Header()
	switch e.Code {
	case fault.Unauthenticated:
		h.Set("WWW-Authenticate", `Bearer realm="rollcall"`)
	case fault.TooManyRequests, fault.Unavailable:
		if h.Get("Retry-After") == "" {
			h.Set("Retry-After", "1")
		}
	}
	h.Del("ETag")
	WriteJSON(w, e.Code.Status(), map[string]errorJSON{"error": body})
}

// WriteJSON answers with v, which must marshal.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("httpd: marshal an answer: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // if the peer is gone there is nobody to tell
}

// Fail answers with err: a fault.Error as it is, an error of reading the
// request's body as the fault it stands for, and anything else as an internal
// error, whose detail goes to the log only.
func Fail(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	var tooBig *http.MaxBytesError
	e, ok := fault.As(err)
	switch {
	case ok:
	case errors.As(err, &tooBig):
		e = fault.New(fault.TooLarge, "The body is larger than %d bytes.", tooBig.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		e = fault.New(fault.InvalidContent, "The body did not arrive in time.")
	case r.Context().Err() != nil: // the peer has gone, or we are shutting down
		e = fault.New(fault.Unavailable, "The request was ended before it was answered; what it asked for may have been done.")
	default:
		id := w.Header().Get(RequestID)
		log.Error("internal error", "request", id, "method", r.Method, "path", r.URL.Path, "err", err)
		e = fault.New(fault.Internal, "Internal error; the server's log has the details under request %s.", id)
	}
	WriteError(w, e)
}
