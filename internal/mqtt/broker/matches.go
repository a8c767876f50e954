package broker

import (
	"fmt"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// endExcessive ends the clients that have more subscriptions that match one
// message than they may: each publisher would pay for them. Those whose sessions
// are shared count each copy that they would get.
func (b *Broker) endExcessive(r *round, f *fan) {
	most := b.opts.MaxMatches
	if most == 0 || len(f.found) <= most {
		return
	}
	var copies map[holder]int // by shared subscriptions, if one client may have too many
	if f.groups > most {
		copies = make(map[holder]int)
		for i := range f.to {
			if t := &f.to[i]; t.group != nil {
				copies[t.holder()]++
			}
		}
	}
	for i := range f.to {
		t := &f.to[i]
		n := max(t.found, copies[t.holder()])
		if n <= most {
			continue
		}
		t.ended = true
		e := session.Ending{Reason: disconnect.QuotaExceeded, Evidence: disconnect.Evidence{Kind: disconnect.Limit,
			Detail: fmt.Sprintf("%d subscriptions of the client match one topic; the limit is %d", n, most)}}
		if t.box != nil {
			t.box.exceed(r, e)
		} else {
			t.conn.end(r, e, packet.QuotaExceeded)
		}
	}
}

func (t *receiver) holder() holder {
	if t.box != nil {
		return t.box
	}
	return t.conn
}
