package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"syscall"
	"time"

	"rollcall/internal/delivery"
)

// Bounds of an answer.
const (
	maxAnswer  = 64 << 10 // bytes of its body that are read
	maxHeaders = 64 << 10 // bytes of its header

	// An answer's body that nobody needs is read to its end, so that the
	// connection can be used again, unless that takes long.
	drainWithin = idleLimit
	maxDrains   = 256 // at a time; beyond it connections are closed instead
)

// answer is what came back of one request.
type answer struct {
	status int
	header http.Header
	body   []byte // its first maxAnswer bytes at most, if it was wanted
}

// errNoAnswer is why a request was given up.
var errNoAnswer = errors.New("no answer in time")

// do makes one request. Unless the body is wanted, the status is the answer and
// is not kept waiting for the rest. The error is set only where no answer came.
func (c *Client) do(ctx context.Context, r *http.Request, wantBody bool) (answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := c.clock.AfterFunc(c.timeout, func() { cancel(errNoAnswer) })
	resp, used, err := c.send(ctx, r) //nolint:bodyclose // drain closes it
	if err != nil {
		timer.Stop()
		if errors.Is(context.Cause(ctx), errNoAnswer) {
			err = errNoAnswer
		}
		cancel(nil)
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	if wantBody {
		a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
			err = errNoAnswer
		}
	}
	timer.Stop()
	c.drain(resp, used, cancel)
	return a, err
}

// sends is how often a request is sent at most because connections that had
// been used before, and were kept, turned out to be closed.
const sends = 3

// send makes a request and returns the answer and the connection that it came
// on, if that is one of ours. That a kept connection was closed meanwhile is
// nobody's fault: the request is sent again on another, which net/http does for
// HTTP/1 and not for HTTP/2.
func (c *Client) send(ctx context.Context, r *http.Request) (resp *http.Response, used *conn, err error) {
	for n := 1; ; n++ {
		var reused bool
		used = nil
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			used.done(0)
			used, reused = ours(i.Conn), i.Reused
			if used != nil {
				used.begin()
			}
		}}
		again := r.WithContext(httptrace.WithClientTrace(ctx, trace))
		if r.GetBody != nil && n > 1 {
			if again.Body, err = r.GetBody(); err != nil {
				return nil, nil, err
			}
		}
		resp, err = c.http.RoundTrip(again)
		if err == nil {
			return resp, used, nil
		}
		used.done(0)
		if !reused || n == sends || ctx.Err() != nil || !closedUnder(err) {
			return nil, nil, err
		}
	}
}

// closedUnder reports whether a request failed because its connection was
// closed, and not because of what the receiver said.
func closedUnder(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	text := err.Error() // these have no name
	return strings.HasSuffix(text, "client connection lost") || strings.HasSuffix(text, "server closed idle connection")
}

// done ends the use of a connection; c may be nil.
func (c *conn) done(proto int) {
	if c != nil {
		c.end(idleFor(proto, nil))
	}
}

// drain disposes of the rest of an answer, without its caller.
func (c *Client) drain(resp *http.Response, used *conn, cancel context.CancelCauseFunc) {
	finish := func() {
		_ = resp.Body.Close() // the answer has been taken
		cancel(nil)
		if used != nil {
			used.end(idleFor(resp.ProtoMajor, resp.Header))
		}
	}
	if resp.Body == http.NoBody {
		finish()
		return
	}
	started := c.startDrain(func() {
		late := c.clock.AfterFunc(drainWithin, func() { cancel(errNoAnswer) })
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // what breaks off changes nothing
		late.Stop()
		finish()
	})
	if !started { // a connection is cheaper than another goroutine
		cancel(nil)
		finish()
	}
}

// startDrain runs f on a goroutine that Close waits for. It reports false where
// there are too many, and once the client is closed.
func (c *Client) startDrain(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	select {
	case c.drains <- struct{}{}:
	default:
		return false
	}
	c.draining.Go(func() {
		defer func() { <-c.drains }()
		f()
	})
	return true
}

// outcome judges a failed request.
func outcome(ctx context.Context, err error) delivery.Result {
	r := delivery.Result{Verdict: delivery.TryLater, Outcome: delivery.SocketError, Detail: "connection failed"}
	var (
		dns     *net.DNSError
		timeout interface{ Timeout() bool }
		cert    *tls.CertificateVerificationError
	)
	switch {
	case ctx.Err() != nil:
		return delivery.Result{}
	case errors.Is(err, errTarget):
		r.Outcome, r.Detail = delivery.Disabled, errTarget.Error()
	case errors.As(err, &dns):
		r.Outcome, r.Detail = delivery.ResolutionError, "the host name cannot be resolved"
	case errors.Is(err, errNoAnswer), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		r.Outcome, r.Detail = delivery.TimedOut, "no answer in time"
	case errors.As(err, &cert):
		r.Detail = distrust(cert.Err)
	default:
		r.Detail = unconnected(err)
	}
	return r
}

// distrust says why a certificate was not taken. Hosts and CAs are named; no
// URL is.
func distrust(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		if c := authority.Cert; c != nil {
			return fmt.Sprintf("the server's certificate is from a CA that is not trusted here (%.200q)", c.Issuer.String())
		}
		return "the server's certificate is from a CA that is not trusted here"
	case errors.As(err, &name):
		return fmt.Sprintf("the server's certificate is not for %.253s", name.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		text := fmt.Sprintf("the server's certificate is valid from %s to %s only",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
		if strings.Contains(invalid.Detail, "is before") { // seldom the certificate's fault
			text += "; look whether the clock here is right (" + invalid.Detail + ")"
		}
		return text
	}
	return fmt.Sprintf("the server's certificate is not trusted: %.200s", err)
}

// unconnected says how far a connection came, and to where.
func unconnected(err error) string {
	var (
		op     *net.OpError
		header tls.RecordHeaderError
	)
	to := ""
	if errors.As(err, &op) && op.Addr != nil {
		to = " " + op.Addr.String()
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused at" + to
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to" + to
	case errors.As(err, &header), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the server does not speak TLS at that port"
	case op != nil && op.Op == "remote error": // an alert of TLS
		return fmt.Sprintf("the server refuses the TLS connection: %.200s", op.Err)
	}
	return "connection failed"
}
