// Package webhook delivers events by HTTP POST and asks endpoints whether they
// want them.
//
// Its promise: an attempt ends within the response time-out, follows no
// redirect, uses no proxy but a configured one, reads a bounded part of the
// answer, and never reaches an address that the rules forbid, whatever a name
// resolves to. URLs, validation codes and bodies appear in no log and no
// result. Everything may be used concurrently.
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
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/delivery"
	"rollcall/internal/fault"
)

// Options configure a Client.
type Options struct {
	Rules Rules
	// Clock judges dates in Retry-After. Default: clock.System.
	Clock clock.Clock
	// ResponseTimeout bounds an attempt. Default 30 s.
	ResponseTimeout time.Duration
	// RootCAs verify servers. Nil: those of the system.
	RootCAs *x509.CertPool
	// Proxy takes all requests, if set. The rules then apply to the endpoint
	// URL only, because the proxy resolves its host.
	Proxy *url.URL
	// IdlePerHost bounds the idle connections kept per host. Default 64.
	IdlePerHost int
	// Origin is whom the CloudEvents handshake asks for. Default
	// eventgrid.azure.net, because receivers expect it.
	Origin string
	// RequestRate is what the CloudEvents handshake asks for, in requests per
	// minute. Default 120.
	RequestRate int
	// Resolver looks names up. Default: the system's.
	Resolver *net.Resolver
}

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 64 << 10

// userAgent names us to receivers.
const userAgent = "rollcall"

// Client makes requests to webhooks.
type Client struct {
	rules   Rules
	clock   clock.Clock
	http    *http.Transport // used as it is: it follows no redirect and keeps no cookie
	timeout time.Duration
	origin  string
	origins []string // origin as a header value
	rate    int
}

// New checks the options and returns a Client.
func New(o Options) (*Client, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = 30 * time.Second
	}
	if o.IdlePerHost == 0 {
		o.IdlePerHost = 64
	}
	if o.Origin == "" {
		o.Origin = "eventgrid.azure.net"
	}
	if o.RequestRate == 0 {
		o.RequestRate = 120
	}
	switch {
	case o.ResponseTimeout < 0:
		return nil, fault.At("responseTimeout", "%v is negative", o.ResponseTimeout)
	case o.IdlePerHost < 0:
		return nil, fault.At("idlePerHost", "%d is negative", o.IdlePerHost)
	case o.RequestRate < 0:
		return nil, fault.At("requestRate", "%d is negative", o.RequestRate)
	case !validHeaderValue(o.Origin):
		return nil, fault.At("origin", "%q cannot be a header value", o.Origin)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: o.Resolver}
	if o.Proxy == nil {
		dialer.Control = o.Rules.control
	}
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   o.IdlePerHost,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // answers are not used
	}
	if o.Proxy != nil {
		t.Proxy = http.ProxyURL(o.Proxy)
	}
	return &Client{
		rules: o.Rules, clock: o.Clock, timeout: o.ResponseTimeout, origin: o.Origin,
		origins: []string{o.Origin}, rate: o.RequestRate,
		http: t,
	}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Check judges an endpoint URL; see Rules.Parse.
func (c *Client) Check(target, endpoint string) *fault.Error {
	_, err := c.rules.Parse(target, endpoint)
	return err
}

// answer is what came back of one request.
type answer struct {
	status int
	header http.Header
	body   []byte // its first maxAnswer bytes at most
}

// errNoAnswer is why a request was given up.
var errNoAnswer = errors.New("no answer in time")

// do makes one request.
func (c *Client) do(ctx context.Context, r *http.Request, wantBody bool) (answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := c.clock.AfterFunc(c.timeout, func() { cancel(errNoAnswer) })
	defer timer.Stop()
	a, err := c.roundTrip(r.WithContext(ctx), wantBody)
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		err = errNoAnswer
	}
	return a, err
}

func (c *Client) roundTrip(r *http.Request, wantBody bool) (answer, error) {
	resp, err := c.http.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	limited := io.LimitReader(resp.Body, maxAnswer)
	if wantBody {
		a.body, err = io.ReadAll(limited)
	} else {
		// Read to the end, so that the connection can be used again. The
		// status is the answer; a body that breaks off changes nothing.
		_, _ = io.Copy(io.Discard, limited)
	}
	return a, err
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
		r.Detail = "the server's certificate is not trusted"
	}
	return r
}

// retryAfter reads a Retry-After header: seconds or a date. Zero if there is
// none or it makes no sense.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// validHeaderValue reports whether s can be sent as a header value.
func validHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7F {
			return false
		}
	}
	return true
}

// statusText is an HTTP status for people.
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("%d %s", status, text)
	}
	return strconv.Itoa(status)
}
