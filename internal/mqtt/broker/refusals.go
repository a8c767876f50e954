package broker

import (
	"cmp"
	"net/netip"
	"slices"
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
//
// When those are full, one goes of the reason with the most, and of its network
// with the most: whoever scans ports or guesses passwords pushes out his own, and
// not the device that somebody is looking for.
type refusals struct {
	counter *prometheus.CounterVec

	mu     sync.Mutex
	kept   int
	next   uint64 // number of the next
	by     map[string]*refusedFor
	lines  *rate.Limiter
	missed int // lines that were not logged
}

// refusedFor are those of one reason, by network.
type refusedFor struct {
	kept int
	from map[string][]numberedRefusal // oldest first
}

type numberedRefusal struct {
	Refused
	n uint64
}

func newRefusals() *refusals {
	return &refusals{
		counter: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_mqtt_refusals_total", Help: "Clients that were not let in, by reason."}, []string{"reason"}),
		by:    make(map[string]*refusedFor),
		lines: rate.NewLimiter(1, refusalLines),
	}
}

// keep has x among the newest. It is locked.
func (f *refusals) keep(x Refused) {
	if f.kept == refusalsKept {
		f.drop()
	}
	r := f.by[x.Reason]
	if r == nil {
		r = &refusedFor{from: make(map[string][]numberedRefusal)}
		f.by[x.Reason] = r
	}
	net := networkOf(x.Remote)
	r.from[net] = append(r.from[net], numberedRefusal{x, f.next})
	r.kept++
	f.kept++
	f.next++
}

// drop forgets one. It looks at each reason and at each network of one of them,
// at most 1,000, which takes microseconds.
func (f *refusals) drop() {
	var most *refusedFor
	var reason, net string
	for name, r := range f.by {
		if most == nil || r.kept > most.kept {
			most, reason = r, name
		}
	}
	var longest []numberedRefusal
	for from, l := range most.from {
		if len(l) > len(longest) || len(l) == len(longest) && l[0].n < longest[0].n {
			longest, net = l, from
		}
	}
	f.kept--
	if most.kept--; most.kept == 0 {
		delete(f.by, reason)
	}
	if len(longest) == 1 {
		delete(most.from, net)
		return
	}
	longest[0] = numberedRefusal{} // the array lives on
	most.from[net] = longest[1:]
}

// networkOf is the IPv4 address, or the IPv6 /64, of a peer.
func networkOf(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := a.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	net, _ := ip.Prefix(64) // which IPv6 addresses are long enough for
	return net.String()
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
	f.keep(x)
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
// newest first. At most 1,000 are known; see refusals for which.
func (b *Broker) Refusals(limit int) []Refused {
	f := b.refusals
	f.mu.Lock()
	all := make([]numberedRefusal, 0, f.kept)
	for _, r := range f.by {
		for _, l := range r.from {
			all = append(all, l...)
		}
	}
	f.mu.Unlock()
	slices.SortFunc(all, func(a, b numberedRefusal) int { return cmp.Compare(b.n, a.n) })
	out := make([]Refused, 0, max(0, min(limit, len(all))))
	for _, x := range all[:cap(out)] {
		out = append(out, x.Refused)
	}
	return out
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
