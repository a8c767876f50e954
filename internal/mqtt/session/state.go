package session

import (
	"rollcall/internal/clock"
	"rollcall/internal/mqtt/packet"
)

// State returns what the next connection resumes, as things stand. Packets
// whose tokens have not been answered count as not yet stored; see Settled. It
// may be called at any time after the session was admitted.
func (s *Session) State() *State {
	st := &State{Subscriptions: s.subs.all()}
	for _, r := range s.inbound.all() {
		if r.state != taken {
			st.Received = append(st.Received, r.id)
		}
	}
	for i := range s.out.n {
		f := s.out.at(i)
		if f.state == landed {
			continue
		}
		st.Inflight = append(st.Inflight, Outgoing{
			PacketID: f.id, Message: f.message, QoS: f.qos, Retain: f.retain, Sent: f.state != waiting || f.again,
			Released: f.state == releasedState, SubscriptionIDs: f.ids(), Share: f.share(),
		})
	}
	return st
}

// Settled reports that every token has been answered, so that State is what is
// stored.
func (s *Session) Settled() bool {
	for i := range s.acks {
		if !s.acks[i].ready {
			return false
		}
	}
	return true
}

// restore takes the state over that an earlier connection has left.
func (s *Session) restore(st *State) {
	if st == nil {
		return
	}
	for _, sub := range st.Subscriptions {
		s.subs.put(sub)
	}
	for _, id := range st.Received {
		if s.inbound.find(id) == nil {
			s.inbound.add(receipt{id: id, state: recorded})
		}
	}
	for i := range st.Inflight {
		g := &st.Inflight[i]
		if g.PacketID > s.nextID { // the client may remember those ids
			s.nextID = g.PacketID
		}
		if g.Message == nil && g.QoS != packet.QoS2 {
			continue // there is nothing to send
		}
		f := flight{id: g.PacketID, qos: g.QoS, retain: g.Retain, again: g.Sent}
		if g.Message == nil || g.Released { // what is lost is completed, so that its id is free on both sides
			f.state = releasedState
			s.out.push(f)
			continue
		}
		f.message = g.Message.Keep()
		if len(g.SubscriptionIDs) > 0 || g.Share != "" {
			f.extra = &extra{ids: g.SubscriptionIDs, share: g.Share}
		}
		s.out.waiting++
		if !s.stored {
			s.outBytes += uint32(f.message.Size())
		}
		s.out.push(f)
	}
}

// resume sends what the client has not acknowledged, in its order, and no more
// than its window allows [MQTT-4.4.0-1] [MQTT-4.6.0-1].
func (s *Session) resume(now clock.Instant, out []Action) []Action {
	for i := uint32(0); i < s.out.n; i++ {
		switch f := s.out.at(i); {
		case f.state == releasedState: // PUBREL is not subject to flow control [MQTT-4.9.0-3]
			out = append(out, Action{Kind: SendAck, Type: packet.PUBREL, PacketID: f.id})
		case f.state == waiting && s.out.flying < uint32(s.inflightMax):
			out = s.launch(f, now, out)
		}
	}
	return s.pump(now, out)
}

// Queued is how many QoS 1 and 2 messages wait for the client or are not
// acknowledged.
func (s *Session) Queued() int { return int(s.out.waiting + s.out.flying) }
