package session_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/topic"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what the session does now")

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// config is what transcripts begin with; a "config" line changes it.
func config() *session.Config {
	return &session.Config{
		ConnectTimeout: 10 * time.Second, MaximumQoS: packet.QoS1, ReceiveMaximum: 1000, MaximumPacketSize: 1 << 20,
		TopicAliasMaximum: 10, Topics: topic.Limits{MaxLevels: 16}, MaxClientID: 128, MaxInflight: 2,
		QueueMessages: 2, QueueBytes: 1 << 20, CheckPayload: true,
		NewClientID: func() string { return "auto-1" },
	}
}

// TestTranscripts replays testdata/transcripts: lines that begin with ">" are
// inputs, the indented ones below are the actions that must follow.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

func replay(t *testing.T, text string) string {
	cfg := config()
	var s *session.Session
	now := epoch
	messages := map[string]*session.Message{}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue // an action of the last run
		}
		out.WriteString(line)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			if s == nil || strings.HasPrefix(line, "#") {
				s = nil // each comment begins a new conversation
				now = epoch
			}
			continue
		}
		words := strings.Fields(line)
		args := arguments(words[1:])
		if words[0] == "config" {
			configure(t, cfg, args)
			continue
		}
		if s == nil {
			s = session.New(cfg, now)
		}
		if after := args["after"]; after != "" {
			d, err := time.ParseDuration(after)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
		}
		in := input(t, words[1], args, messages)
		for _, a := range s.Step(in, now, nil) {
			fmt.Fprintf(&out, "  %s\n", show(a))
			if a.Kind == session.Route {
				messages[string(a.Message.Payload)] = a.Message
			}
		}
	}
	return out.String()
}

func arguments(words []string) map[string]string {
	args := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			v = "true"
		}
		args[k] = v
	}
	return args
}

func configure(t *testing.T, c *session.Config, args map[string]string) {
	for k, v := range args {
		n, _ := strconv.Atoi(v)
		switch k {
		case "receiveMaximum":
			c.ReceiveMaximum = uint16(n)
		case "maxKeepAlive":
			c.MaximumKeepAlive = uint16(n)
		case "maxFilters":
			c.MaxFilters = n
		case "maxSubscriptions":
			c.MaxSubscriptions = n
		case "maxFieldBytes":
			c.MaxFieldBytes = n
		case "maxUserBytes":
			c.MaxUserBytes = n
		case "refuseUserProps":
			c.RefuseUserProps = true
		case "fatalNegativeAck":
			c.FatalNegativeAck = true
		default:
			t.Fatalf("unknown setting %s", k)
		}
	}
}

// input makes an Input out of a line such as "> publish topic=a qos=1 id=7".
func input(t *testing.T, verb string, a map[string]string, messages map[string]*session.Message) session.Input {
	num := func(k string) int {
		if a[k] == "" {
			return 0
		}
		n, err := strconv.ParseInt(a[k], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	received := func(p packet.Packet) session.Input { return session.Input{Kind: session.Received, Packet: p} }
	code := packet.ReasonCode(num("code"))
	user := []packet.UserProperty(nil)
	if a["user"] != "" {
		user = []packet.UserProperty{{Name: []byte("k"), Value: []byte(a["user"])}}
	}
	switch verb {
	case "connect":
		c := &packet.Connect{
			Version: packet.Version(num("v")), ClientID: a["id"], CleanStart: a["clean"] != "false",
			KeepAlive: uint16(num("keep")), ReceiveMaximum: 65535, SessionExpiryInterval: uint32(num("expiry")),
			MaximumPacketSize: uint32(num("max")), AuthenticationMethod: a["method"], UserProperties: user,
		}
		if a["window"] != "" {
			c.ReceiveMaximum = uint16(num("window"))
		}
		if a["will"] != "" {
			c.Will = &packet.Will{Topic: []byte(a["will"]), Payload: []byte("gone"), QoS: packet.QoS(num("willqos")), Retain: a["willretain"] != ""}
		}
		return received(c)
	case "garbled":
		in := session.Input{Kind: session.Garbled, Err: &packet.Error{Code: code, Clause: "x", Message: "garbled"}}
		if a["v"] != "" {
			in.Packet = &packet.Connect{Version: packet.Version(num("v"))}
		}
		return in
	case "publish":
		p := &packet.Publish{Topic: []byte(a["topic"]), Payload: []byte(a["payload"]), QoS: packet.QoS(num("qos")), PacketID: uint16(num("id")),
			Retain: a["retain"] != "", TopicAlias: uint16(num("alias")), UserProperties: user, ResponseTopic: []byte(a["response"])}
		if a["expiry"] != "" {
			p.MessageExpiryInterval = packet.Some(uint32(num("expiry")))
		}
		if a["utf8"] != "" {
			p.PayloadFormatIndicator = packet.Some[uint8](1)
			p.Payload = []byte{0xff}
		}
		return received(p)
	case "puback":
		in := received(&packet.Puback{PacketID: uint16(num("id")), ReasonCode: code, UserProperties: user})
		in.Congested = a["congested"] != ""
		return in
	case "pubrec":
		return received(&packet.Pubrec{PacketID: uint16(num("id"))})
	case "pubrel":
		return received(&packet.Pubrel{PacketID: uint16(num("id"))})
	case "pubcomp":
		return received(&packet.Pubcomp{PacketID: uint16(num("id"))})
	case "subscribe":
		p := &packet.Subscribe{PacketID: uint16(num("id")), SubscriptionIdentifier: uint32(num("sid")), UserProperties: user}
		for f := range strings.SplitSeq(a["to"], ",") {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: packet.QoS(num("qos"))})
		}
		return received(p)
	case "unsubscribe":
		return received(&packet.Unsubscribe{PacketID: uint16(num("id")), Filters: strings.Split(a["from"], ","), UserProperties: user})
	case "ping":
		return received(&packet.Pingreq{})
	case "auth":
		return received(&packet.Auth{ReasonCode: packet.ReAuthenticate, AuthenticationMethod: "X"})
	case "connack":
		return received(&packet.Connack{})
	case "disconnect":
		d := &packet.Disconnect{ReasonCode: code, UserProperties: user}
		if a["expiry"] != "" {
			d.SessionExpiryInterval = packet.Some(uint32(num("expiry")))
		}
		return received(d)
	case "admitted":
		ad := session.Admission{}
		if a["expires"] != "" {
			d, err := time.ParseDuration(a["expires"])
			if err != nil {
				t.Fatal(err)
			}
			ad = session.Admission{ExpiresAt: epoch.Add(d), ExpiryDetail: "the certificate expired"}
		}
		return session.Input{Kind: session.Admitted, Admission: ad}
	case "refused":
		return session.Input{Kind: session.Refused, Code: code, Text: a["text"]}
	case "committed":
		return session.Input{Kind: session.Committed, Token: uint32(num("token")), Code: code}
	case "granted":
		in := session.Input{Kind: session.Committed, Token: uint32(num("token"))}
		for c := range strings.SplitSeq(a["codes"], ",") {
			n, err := strconv.ParseUint(c, 0, 8)
			if err != nil {
				t.Fatal(err)
			}
			in.Codes = append(in.Codes, packet.ReasonCode(n))
		}
		return in
	case "deliver":
		m := messages[a["payload"]]
		if m == nil {
			m = &session.Message{Publish: packet.Publish{Topic: []byte("t"), Payload: []byte(a["payload"]), QoS: packet.QoS(num("published"))}, Received: epoch}
			if a["expiry"] != "" {
				m.MessageExpiryInterval = packet.Some(uint32(num("expiry")))
			}
		}
		return session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS(num("qos")), Congested: a["congested"] != ""}
	case "drain":
		return session.Input{Kind: session.Drain}
	case "tick":
		return session.Input{Kind: session.Tick}
	case "close":
		return session.Input{Kind: session.Close, Code: code, Ending: session.Ending{Reason: disconnect.ServerInitiatedDisconnect,
			Evidence: disconnect.Evidence{Kind: disconnect.Operator, Detail: "closed"}}}
	case "lost":
		return session.Input{Kind: session.Lost, Ending: session.Ending{Reason: disconnect.ConnectionLost,
			Evidence: disconnect.Evidence{Kind: disconnect.Transport, Detail: "lost"}}}
	}
	t.Fatalf("unknown input %q", verb)
	return session.Input{}
}

// show prints an action on one line.
func show(a session.Action) string {
	switch a.Kind {
	case session.Send:
		return "send " + showPacket(a.Packet)
	case session.SendPuback:
		return "send " + showPacket(&packet.Puback{PacketID: a.PacketID, ReasonCode: a.Code})
	case session.SendMessage:
		return fmt.Sprintf("message %s qos=%d id=%d expiry=%d", a.Message.Payload, a.QoS, a.PacketID, a.Expiry)
	case session.Admit:
		return "admit " + a.ClientID
	case session.Route:
		return fmt.Sprintf("route topic=%s payload=%s qos=%d token=%d", a.Message.Topic, a.Message.Payload, a.Message.QoS, a.Token)
	case session.Subscribe:
		s := fmt.Sprintf("subscribe token=%d", a.Token)
		for i, sub := range a.Subscriptions {
			s += fmt.Sprintf(" %s:0x%02x", sub.Filter, uint8(a.Codes[i]))
		}
		return s
	case session.Unsubscribe:
		return fmt.Sprintf("unsubscribe token=%d %v %v", a.Token, a.Filters, a.Codes)
	case session.Drop:
		return "drop " + a.Ending.Evidence.Detail
	case session.End:
		s := fmt.Sprintf("end %s: %s %s 0x%02x: %s", a.Ending.Reason, a.Ending.Evidence.Kind, a.Ending.Evidence.Packet,
			a.Ending.Evidence.Code, a.Ending.Evidence.Detail)
		if a.Will != nil {
			s += fmt.Sprintf("; will %s", a.Will.Topic)
		}
		return s
	case session.Shut:
		return "shut"
	}
	return fmt.Sprintf("action %d", a.Kind)
}

func showPacket(p packet.Packet) string {
	switch p := p.(type) {
	case *packet.Connack:
		s := fmt.Sprintf("CONNACK 0x%02x", uint8(p.ReasonCode))
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
			s += fmt.Sprintf(" qos=%d window=%d aliases=%d max=%d", p.MaximumQoS.Value, p.ReceiveMaximum, p.TopicAliasMaximum, p.MaximumPacketSize)
		}
		return s
	case *packet.Puback:
		return fmt.Sprintf("PUBACK %d 0x%02x", p.PacketID, uint8(p.ReasonCode))
	case *packet.Pubrel:
		return fmt.Sprintf("PUBREL %d 0x%02x", p.PacketID, uint8(p.ReasonCode))
	case *packet.Pubcomp:
		return fmt.Sprintf("PUBCOMP %d 0x%02x", p.PacketID, uint8(p.ReasonCode))
	case *packet.Suback:
		return fmt.Sprintf("SUBACK %d % x", p.PacketID, p.ReasonCodes)
	case *packet.Unsuback:
		return fmt.Sprintf("UNSUBACK %d % x", p.PacketID, p.ReasonCodes)
	case *packet.Disconnect:
		return fmt.Sprintf("DISCONNECT 0x%02x %q", uint8(p.ReasonCode), p.ReasonString)
	}
	return p.Type().String()
}
