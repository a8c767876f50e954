package differential

import (
	"fmt"
	"slices"
	"strings"

	"rollcall/internal/mqtt/packet"
)

// memory is what a comparison must know of messages that arrive later than
// they were published.
type memory struct {
	overlaps map[string][clients]int // by topic and payload: subscriptions of each client that matched
	groups   map[string]int          // by topic and payload: shared subscriptions that matched
	short    map[string]life         // by topic and payload: messages that expire during the conversation
	qos      map[string]packet.QoS   // by topic and payload: as published
}

// life says in what state a message of short life is.
type life int

const (
	fresh   life = iota + 1 // published in this step
	ageing                  // may have expired
	expired                 // must not come any more
)

func newMemory() *memory {
	return &memory{overlaps: make(map[string][clients]int), groups: make(map[string]int), short: make(map[string]life), qos: make(map[string]packet.QoS)}
}

func key(topic, payload string) string { return topic + "=" + payload }

// prepare notes what a step is going to publish, before it is taken.
func (y *memory) prepare(m *model, s *step) {
	for k, l := range y.short {
		if l == fresh {
			y.short[k] = ageing
		}
		if s.do == expire {
			y.short[k] = expired
		}
	}
	for i := range m.clients {
		if w := m.clients[i].will; w != nil && m.clients[i].online { // later it has been published
			y.route(m, w, i)
		}
	}
	if s.do != publish {
		return
	}
	for i := range s.messages {
		p := &s.messages[i]
		y.route(m, p, -1)
		if p.expiry == 1 {
			y.short[key(p.topic, p.payload)] = fresh
		}
	}
}

// route notes who is to get a message. Of a Will, the client that leaves it is no
// member of shared subscriptions any more.
func (y *memory) route(m *model, p *message, gone int) {
	y.qos[key(p.topic, p.payload)] = p.qos
	var n [clients]int
	groups := make(map[string]bool)
	for i := range m.clients {
		c := &m.clients[i]
		n[i] = c.overlaps(p.topic)
		for _, sub := range c.subs {
			if c.online && i != gone && strings.HasPrefix(sub.Filter, "$share/") && matches(sub.Filter[10:], p.topic) {
				groups[sub.Filter] = true
			}
		}
	}
	y.overlaps[key(p.topic, p.payload)] = n
	y.groups[key(p.topic, p.payload)] = len(groups)
}

// compare returns how what two brokers did in a step differs, or "".
func (y *memory) compare(s *step, theirs, ours *outcome) string {
	var b strings.Builder
	if !sameAnswers(theirs.answers, ours.answers) {
		fmt.Fprintf(&b, "answers:\n  mosquitto %v\n  rollcall  %v\n", theirs.answers, ours.answers)
	}
	for i := range clients {
		t, o := y.normal(s, i, y.once(s, i, theirs.heard[i], false)), y.normal(s, i, y.once(s, i, ours.heard[i], true))
		for _, k := range keys(t, o) {
			if !slices.Equal(t[k], o[k]) {
				fmt.Fprintf(&b, "c%d, topic %s:\n  mosquitto %v\n  rollcall  %v\n", i, k, t[k], o[k])
			}
		}
	}
	t, o := pooled(theirs), pooled(ours)
	for _, k := range keys(t, o) {
		if why := judgePool(t[k], o[k], y.groups[k]); why != "" {
			fmt.Fprintf(&b, "%s, topic %s:\n  mosquitto %v\n  rollcall  %v\n", why, k, t[k], o[k])
		}
	}
	return b.String()
}

// normal is what a client heard in a step, by topic, QoS as published and QoS
// as sent: there the order is the publisher's [MQTT-4.6.0-5], and elsewhere
// nobody's. (mosquitto routes a QoS 2 message when PUBREL comes.) What known.go allows
// to differ is left out.
func (y *memory) normal(s *step, client int, list []heard) map[string][]string {
	seqs := make(map[string][]string)
	for _, h := range list {
		if strings.HasPrefix(h.topic, "s/") { // a pool's
			continue
		}
		k := key(h.topic, h.payload)
		if _, brief := y.short[k]; brief { // known: lastSecond
			h.rest = strings.TrimPrefix(h.rest, " expires")
		}
		if l := y.short[k]; l == ageing {
			continue
		} else if l == expired {
			if h.dup { // known: expiredAgain
				continue
			}
			h.rest += " although it has expired"
		}
		if y.overlaps[k][client] > 1 && s.do != subscribe {
			h = overlapping(h)
		}
		by := fmt.Sprintf("%s q%d q%d", h.topic, y.qos[k], h.qos)
		seqs[by] = append(seqs[by], h.String())
	}
	if s.do == subscribe { // retained messages for several filters
		for _, seq := range seqs {
			slices.Sort(seq)
		}
	}
	return seqs
}

func keys(a, b map[string][]string) []string {
	var all []string
	for k := range a {
		all = append(all, k)
	}
	for k := range b {
		if _, also := a[k]; !also {
			all = append(all, k)
		}
	}
	slices.Sort(all)
	return all
}

// pooled is what came by shared subscriptions, to whomever.
func pooled(o *outcome) map[string][]string {
	pool := make(map[string][]string)
	for i := range o.heard {
		for _, h := range o.heard[i] {
			if strings.HasPrefix(h.topic, "s/") {
				k := key(h.topic, h.payload)
				pool[k] = append(pool[k], fmt.Sprintf("q%d retain %v", min(h.qos, packet.QoS1), h.retain))
			}
		}
	}
	for _, seq := range pool {
		slices.Sort(seq)
	}
	return pool
}
