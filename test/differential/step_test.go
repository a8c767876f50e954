package differential

import (
	"fmt"
	"strings"

	"rollcall/internal/mqtt/packet"
)

// clients is how many take part in a conversation.
const clients = 4

// action is what a step does.
type action string

// The actions.
const (
	connect     action = "connect"     // also while the client is connected: a take-over
	disconnect  action = "disconnect"  // with DISCONNECT
	drop        action = "drop"        // without
	subscribe   action = "subscribe"   //
	unsubscribe action = "unsubscribe" //
	publish     action = "publish"     // one or several messages at once
	mute        action = "mute"        // the client acknowledges nothing from now on until it connects again
	expire      action = "expire"      // wait until short-lived messages have expired
)

// step is one step of a conversation. Topics and filters are without the
// prefix that tells conversations apart.
type step struct {
	client int
	do     action

	version packet.Version // of connect
	clean   bool
	expiry  uint32 // of connect; of disconnect, if reset
	window  uint16 // Receive Maximum
	aliases uint16 // Topic Alias Maximum
	will    *message

	reset    bool // disconnect: the session ends after all (expiry 0)
	withWill bool // disconnect with 0x04

	subs []packet.Subscription
	id   uint32

	messages []message
	half     bool // mute: PUBREC is sent, PUBCOMP is not
}

// message is what is published.
type message struct {
	topic   string
	payload string
	qos     packet.QoS
	retain  bool
	expiry  uint32 // 0: none
	alias   uint16
	props   bool   // has properties of every kind
	delay   uint32 // of a Will
}

func (m *message) String() string {
	s := fmt.Sprintf("%s=%q q%d", m.topic, m.payload, m.qos)
	if m.retain {
		s += " retain"
	}
	if m.expiry > 0 {
		s += fmt.Sprintf(" expiry %d", m.expiry)
	}
	if m.alias > 0 {
		s += fmt.Sprintf(" alias %d", m.alias)
	}
	if m.props {
		s += " props"
	}
	if m.delay > 0 {
		s += fmt.Sprintf(" delay %d", m.delay)
	}
	return s
}

// String describes the step in a line.
func (s *step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "c%d %s", s.client, s.do)
	switch s.do {
	case connect:
		fmt.Fprintf(&b, " v%s", s.version)
		if s.clean {
			b.WriteString(" clean")
		}
		if s.version == packet.V5 {
			fmt.Fprintf(&b, " expiry %d window %d aliases %d", s.expiry, s.window, s.aliases)
		}
		if s.will != nil {
			fmt.Fprintf(&b, " will {%s}", s.will)
		}
	case disconnect:
		if s.reset {
			b.WriteString(" expiry 0")
		}
		if s.withWill {
			b.WriteString(" with Will")
		}
	case mute:
		if s.half {
			b.WriteString(" after PUBREC")
		}
	case subscribe, unsubscribe:
		if s.id > 0 {
			fmt.Fprintf(&b, " id %d", s.id)
		}
		for _, f := range s.subs {
			fmt.Fprintf(&b, " %s", f.Filter)
			if s.do == subscribe {
				fmt.Fprintf(&b, ":q%d", f.QoS)
				if f.NoLocal {
					b.WriteString(",nl")
				}
				if f.RetainAsPublished {
					b.WriteString(",rap")
				}
				if f.RetainHandling > 0 {
					fmt.Fprintf(&b, ",rh%d", f.RetainHandling)
				}
			}
		}
	case publish:
		for i := range s.messages {
			fmt.Fprintf(&b, " {%s}", &s.messages[i])
		}
	}
	return b.String()
}

// conversation is what is held with both brokers.
type conversation []step

// String lists the steps.
func (c conversation) String() string {
	var b strings.Builder
	for i := range c {
		fmt.Fprintf(&b, "%3d %s\n", i, &c[i])
	}
	return b.String()
}
