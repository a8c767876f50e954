package session_test

import (
	"fmt"
	"strconv"
	"strings"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// show prints an action on one line.
func show(a session.Action) string {
	switch a.Kind {
	case session.Send:
		return "send " + showPacket(a.Packet)
	case session.SendAck:
		return fmt.Sprintf("send %s %d 0x%02x", a.Type, a.PacketID, uint8(a.Code))
	case session.SendMessage:
		return showMessage(a)
	case session.Admit:
		return fmt.Sprintf("admit %s expiry=%d", a.ClientID, a.Expiry)
	case session.Authenticate:
		return fmt.Sprintf("authenticate %s by %s: %q again=%v connect=%v", a.ClientID, a.Auth.Method, a.Auth.Data, a.Auth.Again, a.Auth.Connect != nil)
	case session.Route:
		s := fmt.Sprintf("route topic=%s payload=%s qos=%d token=%d", a.Message.Topic, a.Message.Payload, a.Message.QoS, a.Token)
		if a.PacketID != 0 {
			s += fmt.Sprintf(" id=%d", a.PacketID)
		}
		return s
	case session.Complete:
		return fmt.Sprintf("complete id=%d token=%d", a.PacketID, a.Token)
	case session.Release:
		return fmt.Sprintf("release id=%d token=%d", a.PacketID, a.Token)
	case session.Settle:
		return fmt.Sprintf("settle id=%d", a.PacketID)
	case session.Subscribe:
		s := fmt.Sprintf("subscribe token=%d", a.Token)
		for i, sub := range a.Request.Subscriptions {
			s += fmt.Sprintf(" %s:0x%02x", sub.Filter, uint8(a.Request.Codes[i]))
			if a.Request.Existed[i] {
				s += " (again)"
			}
		}
		return s
	case session.Unsubscribe:
		return fmt.Sprintf("unsubscribe token=%d %v %v", a.Token, a.Request.Filters, a.Request.Codes)
	case session.Drop:
		return "drop " + a.Why.String()
	case session.End:
		v := a.Final.Evidence
		s := fmt.Sprintf("end %s: %s %s 0x%02x: %s; expiry %d", a.Final.Reason, v.Kind, v.Packet, v.Code, v.Detail, a.Final.Expiry)
		if a.Final.Will != nil {
			s += fmt.Sprintf("; will %s of %s after %d", a.Final.Will.Topic, a.Final.Will.From, a.Final.WillDelay)
		}
		return s
	case session.Shut:
		return "shut"
	}
	return fmt.Sprintf("action %d", a.Kind)
}

func showMessage(a session.Action) string {
	s := fmt.Sprintf("message %s qos=%d id=%d", a.Message.Payload, a.QoS, a.PacketID)
	if a.Expiry != 0 {
		s += fmt.Sprintf(" expiry=%d", a.Expiry)
	}
	if a.Alias != 0 {
		s += fmt.Sprintf(" alias=%d", a.Alias)
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{a.NoTopic, " without topic"}, {a.Dup, " dup"}, {a.Retain, " retain"}} {
		if f.set {
			s += f.name
		}
	}
	if len(a.SubscriptionIDs) > 0 {
		s += fmt.Sprintf(" sids=%v", a.SubscriptionIDs)
	}
	return s
}

// showState prints what outlives a connection, on several lines.
func showState(st *session.State) string {
	var out strings.Builder
	for _, s := range st.Subscriptions {
		fmt.Fprintf(&out, "  subscription %s qos=%d nolocal=%v rap=%v rh=%d id=%d\n", s.Filter, s.QoS, s.NoLocal, s.RetainAsPublished, s.RetainHandling, s.ID)
	}
	if len(st.Received) > 0 {
		fmt.Fprintf(&out, "  received %v\n", st.Received)
	}
	for _, o := range st.Inflight {
		payload := "-"
		if o.Message != nil {
			payload = string(o.Message.Payload)
		}
		fmt.Fprintf(&out, "  inflight %d %s qos=%d sent=%v released=%v share=%q sids=%v\n", o.PacketID, payload, o.QoS, o.Sent, o.Released, o.Share, o.SubscriptionIDs)
	}
	return out.String()
}

func showPacket(p packet.Packet) string {
	switch p := p.(type) {
	case *packet.Connack:
		return showConnack(p)
	case *packet.Suback:
		return fmt.Sprintf("SUBACK %d % x", p.PacketID, p.ReasonCodes)
	case *packet.Unsuback:
		return fmt.Sprintf("UNSUBACK %d % x", p.PacketID, p.ReasonCodes)
	case *packet.Disconnect:
		return fmt.Sprintf("DISCONNECT 0x%02x %q", uint8(p.ReasonCode), p.ReasonString)
	case *packet.Auth:
		return fmt.Sprintf("AUTH 0x%02x %s %q", uint8(p.ReasonCode), p.AuthenticationMethod, p.AuthenticationData)
	}
	return p.Type().String()
}

func showConnack(p *packet.Connack) string {
	s := fmt.Sprintf("CONNACK 0x%02x", uint8(p.ReasonCode))
	if p.SessionPresent {
		s += " present"
	}
	if p.ReasonString != "" {
		s += " " + strconv.Quote(p.ReasonString)
	}
	if p.AssignedClientIdentifier != "" {
		s += " assigned=" + p.AssignedClientIdentifier
	}
	if p.ServerKeepAlive.Set {
		s += fmt.Sprintf(" keep=%d", p.ServerKeepAlive.Value)
	}
	if p.SessionExpiryInterval.Set {
		s += fmt.Sprintf(" expiry=%d", p.SessionExpiryInterval.Value)
	}
	if p.MaximumQoS.Set {
		s += fmt.Sprintf(" qos=%d", p.MaximumQoS.Value)
	}
	if p.MaximumPacketSize != 0 {
		s += fmt.Sprintf(" window=%d aliases=%d max=%d", p.ReceiveMaximum, p.TopicAliasMaximum, p.MaximumPacketSize)
	}
	if p.SharedSubscriptionAvailable.Set {
		s += fmt.Sprintf(" retain=%v shared=%v sid=%v", p.RetainAvailable.Value, p.SharedSubscriptionAvailable.Value, p.SubscriptionIdentifiersAvailable.Value)
	}
	if p.AuthenticationMethod != "" {
		s += fmt.Sprintf(" method=%s data=%q", p.AuthenticationMethod, p.AuthenticationData)
	}
	return s
}
