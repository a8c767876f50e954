package broker

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// Refused is a client that was not let in.
type Refused struct {
	Time      time.Time
	Realm     string
	Remote    string
	Transport string
	ClientID  string // "": unknown
	UserName  string // "": none, or unknown
	Reason    string // of a small closed set
	Code      packet.ReasonCode
	HasCode   bool   // of CONNACK; false: the connection was closed without one
	Text      string // names no secret
}

const (
	refusalsKept = 1000
	refusalText  = 160 // bytes of each text: a peer chooses some of them
	refusalLines = 20  // of the log at once, and then one a second
)

// refusals leaves a trace of every client that was not let in: a counter, a line
// of the log, of which there are only so many, and the newest of them in memory.
type refusals struct {
	counter *prometheus.CounterVec

	mu     sync.Mutex
	ring   []Refused
	next   int // in ring, once it is full
	lines  *rate.Limiter
	missed int // lines that were not logged
}

func newRefusals() *refusals {
	return &refusals{
		counter: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_refusals_total", Help: "Clients that were not let in, by reason."}, []string{"reason"}),
		lines: rate.NewLimiter(1, refusalLines),
	}
}

// Refuse notes that somebody was not let in. Time is set here.
func (b *Broker) Refuse(x Refused) {
	x.Time = b.opts.Clock.Now()
	for _, s := range []*string{&x.Remote, &x.ClientID, &x.UserName, &x.Text} {
		if len(*s) > refusalText {
			*s = string([]byte((*s)[:refusalText])) // a copy: the rest is not kept
		}
	}
	f := b.refusals
	f.counter.WithLabelValues(x.Reason).Inc()
	f.mu.Lock()
	if len(f.ring) < refusalsKept {
		f.ring = append(f.ring, x)
	} else {
		f.ring[f.next] = x
		f.next = (f.next + 1) % refusalsKept
	}
	said, missed := f.lines.AllowN(time.Time{}.Add(b.clock.Monotonic()), 1), f.missed
	if f.missed++; said {
		f.missed = 0
	}
	f.mu.Unlock()
	if !said {
		return
	}
	code := "none"
	if x.HasCode {
		code = x.Code.String()
	}
	b.opts.Log.Info("CONNECT refused", "remote", x.Remote, "transport", x.Transport, "client", x.ClientID, "name", x.UserName,
		"reason", x.Reason, "code", code, "why", x.Text, "notLogged", missed)
}

// Refusals returns up to limit of the clients that were not let in lately, the
// newest first. At most the last 1,000 are known.
func (b *Broker) Refusals(limit int) []Refused {
	f := b.refusals
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(limit, len(f.ring))
	all := make([]Refused, 0, max(n, 0))
	for i := range n {
		all = append(all, f.ring[(f.next+len(f.ring)-1-i)%len(f.ring)])
	}
	return all
}

// RefusedByListener notes a connection that the listeners did not hand over.
func (b *Broker) RefusedByListener(info listen.Info, reason, text string) {
	b.Refuse(Refused{Realm: info.Realm, Remote: info.Remote, Transport: info.Transport, Reason: reason, Text: text})
}

// refused notes that c's client was not let in.
func (c *conn) refused(reason string, code packet.ReasonCode, hasCode bool, text string) {
	c.mu.Lock()
	noted := c.traced
	c.traced = true
	id, user := c.s.ClientID(), c.s.UserName()
	c.mu.Unlock()
	if !noted {
		c.b.Refuse(Refused{Realm: c.info.Realm, Remote: c.info.Remote, Transport: c.info.Transport, ClientID: id, UserName: user,
			Reason: reason, Code: code, HasCode: hasCode, Text: text})
	}
}

// rejectionReasons are the reasons of what the session itself refuses.
var rejectionReasons = map[session.RejectionKind]string{
	session.NotConnect: "not_connect", session.Malformed: "malformed", session.NotSupported: "not_supported", session.Late: "connect_timeout",
}

// traceRejection notes what the session itself has refused, if it has.
func (c *conn) traceRejection() {
	c.mu.Lock()
	x := c.s.Rejected()
	c.mu.Unlock()
	if x != nil {
		c.refused(rejectionReasons[x.Kind], x.Code, x.Code != 0, x.Text)
	}
}
