package crash

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"rollcall/internal/mqtt/packet"
)

// stream is what order is promised within: the messages of one publisher to one
// topic with one QoS [MQTT-4.6.0-1] to [MQTT-4.6.0-4].
type stream struct {
	from, topic string
	qos         packet.QoS
}

// sent is a message that a device has sent, the n-th of its stream, from 1.
type sent struct {
	stream
	n        int
	accepted atomic.Bool // PUBACK or PUBREC has come
}

func (e *sent) String() string { return fmt.Sprintf("%s %s %d %d", e.from, e.topic, e.qos, e.n) }

func (e *sent) payload() []byte { return []byte(e.String()) }

// books are what was sent and what came, of all devices and all rounds.
type books struct {
	mu     sync.Mutex
	sent   map[stream][]*sent
	got    map[string]map[stream][]int  // by subscriber, in the order in which they came
	wills  map[string]map[uint64]int    // by device and connection
	due    map[string]map[uint64]string // how connections ended, without a good-bye
	void   map[string][]uint64          // connections that ended with one
	faults []string
}

func newBooks() *books {
	return &books{sent: map[stream][]*sent{}, got: map[string]map[stream][]int{}, wills: map[string]map[uint64]int{},
		due: map[string]map[uint64]string{}, void: map[string][]uint64{}}
}

// fault notes what must not be.
func (b *books) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// sending notes that the next message of a stream is about to be sent.
func (b *books) sending(s stream) *sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &sent{stream: s, n: len(b.sent[s]) + 1}
	b.sent[s] = append(b.sent[s], e)
	return e
}

// died notes that a connection with a Will has ended without a good-bye.
func (b *books) died(id string, number uint64, how string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.due[id] == nil {
		b.due[id] = map[uint64]string{}
	}
	b.due[id][number] = how
}

// forbid notes that a connection with a Will, or without, has ended with a
// good-bye.
func (b *books) forbid(id string, number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.void[id] = append(b.void[id], number)
}

// received notes what a subscriber was given.
func (b *books) received(by string, p *packet.Publish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	words := strings.Fields(string(p.Payload))
	if strings.HasPrefix(string(p.Topic), "w/") && len(words) == 2 {
		number, err := strconv.ParseUint(words[1], 10, 64)
		if err == nil {
			if b.wills[words[0]] == nil {
				b.wills[words[0]] = map[uint64]int{}
			}
			b.wills[words[0]][number]++
			return
		}
	}
	var s stream
	var n int
	if _, err := fmt.Sscan(string(p.Payload), &s.from, &s.topic, &s.qos, &n); err != nil || s.topic != string(p.Topic) ||
		n < 1 || n > len(b.sent[s]) || p.QoS > s.qos {
		b.faults = append(b.faults, fmt.Sprintf("%s got %q of QoS %d on %s, which nobody has sent", by, p.Payload, p.QoS, p.Topic))
		return
	}
	if b.got[by] == nil {
		b.got[by] = map[stream][]int{}
	}
	b.got[by][s] = append(b.got[by][s], n)
}

// has reports whether a subscriber has got a message of a stream.
func (b *books) has(by string, s stream, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.got[by][s], n)
}

// owed returns how many Wills are due and have not come.
func (b *books) owed() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, numbers := range b.due {
		for number := range numbers {
			if b.wills[id][number] == 0 {
				n++
			}
		}
	}
	return n
}

// interest is what a stored session is subscribed to, from before anything was
// sent: it gets all that matches.
type interest struct {
	by    []string // subscribers: one, or the members of a shared subscription
	atQoS func(s stream) packet.QoS
}

// tally is what a judgement counted.
type tally struct {
	accepted, unsure, due, came, repeats, wills int
}

// judge compares what came with what was due: nothing that was accepted is
// missing, what is due once came once, and first comes come in order.
func (b *books) judge(all []interest) (found []string, t tally) {
	b.mu.Lock()
	defer b.mu.Unlock()
	found = append(found, b.faults...)
	for _, list := range b.sent {
		for _, e := range list {
			if e.qos == packet.QoS0 {
				continue
			}
			if e.accepted.Load() {
				t.accepted++
			} else {
				t.unsure++
			}
		}
	}
	for _, in := range all {
		for s, list := range b.sent {
			if qos := min(s.qos, in.atQoS(s)); qos > packet.QoS0 {
				found = append(found, b.judgeStream(in.by, s, qos, list, &t)...)
			}
		}
	}
	for id, numbers := range b.void {
		for _, n := range numbers {
			if b.wills[id][n] != 0 {
				found = append(found, fmt.Sprintf("will: %s said good-bye on connection %d and its Will came", id, n))
			}
		}
	}
	for id, numbers := range b.due {
		for n, how := range numbers {
			if t.wills++; b.wills[id][n] == 0 {
				found = append(found, fmt.Sprintf("will: that of connection %d of %s (%s) never came", n, id, how))
			}
		}
	}
	slices.Sort(found)
	return found, t
}

func (b *books) judgeStream(by []string, s stream, qos packet.QoS, list []*sent, t *tally) (found []string) {
	times := make([]int, len(list)+1)
	for _, name := range by {
		newest := 0
		for _, n := range b.got[name][s] {
			t.came++
			if times[n]++; times[n] > 1 {
				t.repeats++
				continue
			}
			if n < newest && len(by) == 1 {
				found = append(found, fmt.Sprintf("order: %s got message %d of %v after %d", name, n, s, newest))
			}
			newest = max(newest, n)
		}
	}
	for _, e := range list {
		if e.accepted.Load() {
			t.due++
			if times[e.n] == 0 {
				found = append(found, fmt.Sprintf("lost: %v never got %v, which was accepted", by, e))
			}
		}
		if qos == packet.QoS2 && times[e.n] > 1 {
			found = append(found, fmt.Sprintf("repeated: %v got %v of QoS 2 %d times", by, e, times[e.n]))
		}
	}
	return found
}
