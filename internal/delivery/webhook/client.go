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
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"rollcall/internal/clock"
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

// userAgent names us to receivers.
const userAgent = "rollcall"

// Client makes requests to webhooks.
type Client struct {
	rules   Rules
	clock   *clock.Steady
	http    *http.Transport // used as it is: it follows no redirect and keeps no cookie
	timeout time.Duration
	origin  string
	origins []string // origin as a header value
	rate    int

	drains   chan struct{}  // one for each answer being drained
	draining sync.WaitGroup // their goroutines; none starts once closed is set

	mu     sync.Mutex
	closed bool
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
		DialContext:           dial(o.Clock, dialer.DialContext),
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
		TLSHandshakeTimeout:   10 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   o.IdlePerHost,
		IdleConnTimeout:       longestIdle, // see conn
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // answers are not used

		// A receiver decides how much it answers and we how much we take.
		MaxResponseHeaderBytes: maxHeaders,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 16 << 10, MaxReadFrameSize: 16 << 10,
			MaxDecoderHeaderTableSize: 4 << 10,
		},
	}
	if o.Proxy != nil {
		t.Proxy = http.ProxyURL(o.Proxy)
	}
	return &Client{
		rules: o.Rules, clock: clock.SteadyOf(o.Clock), timeout: o.ResponseTimeout, origin: o.Origin,
		origins: []string{o.Origin}, rate: o.RequestRate,
		http: t, drains: make(chan struct{}, maxDrains),
	}, nil
}

// Close drops idle connections and waits, for some seconds at most, for answers
// that are still being read.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.draining.Wait()
	c.http.CloseIdleConnections()
}

// Check judges an endpoint URL; see Rules.Parse.
func (c *Client) Check(target, endpoint string) *fault.Error {
	_, err := c.rules.Parse(target, endpoint)
	return err
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
