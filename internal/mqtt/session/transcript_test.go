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
	r := &reader{t: t, messages: map[string]*session.Message{}}
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
			s = session.New(cfg, instant(now))
		}
		if after := args["after"]; after != "" {
			d, err := time.ParseDuration(after)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
		}
		if words[1] == "state" {
			r.saved = s.State()
			fmt.Fprintf(&out, "%s  room %d, settled %v, owed %d\n", showState(r.saved), s.Room(), s.Settled(), s.Owed())
			continue
		}
		for _, a := range s.Step(r.input(words[1], args), instant(now), nil) {
			fmt.Fprintf(&out, "  %s\n", show(a))
			if a.Kind == session.Route {
				r.messages[string(a.Message.Payload)] = a.Message
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
		case "qos":
			c.MaximumQoS = packet.QoS(n)
		case "retain":
			c.RetainAvailable = true
		case "shared":
			c.SharedAvailable = true
		case "sid":
			c.SubscriptionIDAvailable = true
		case "serverAliases":
			c.ServerAliasMaximum = uint16(n)
		case "maxExpiry":
			c.MaxSessionExpiry = uint32(n)
		case "maxWillDelay":
			c.MaxWillDelay = uint32(n)
		case "auth":
			c.AuthMethods = strings.Split(v, ",")
		case "inflight":
			c.MaxInflight = uint16(n)
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

// reader is what the lines of a file have in common.
type reader struct {
	t        *testing.T
	messages map[string]*session.Message
	saved    *session.State
}

// input makes an Input out of a line such as "> publish topic=a qos=1 id=7".
func (r *reader) input(verb string, a map[string]string) session.Input {
	t := r.t
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
			TopicAliasMaximum: uint16(num("aliases")), AsksProblemInformation: a["bare"] == "",
		}
		if a["data"] != "" {
			c.AuthenticationData = []byte(a["data"])
		}
		if a["window"] != "" {
			c.ReceiveMaximum = uint16(num("window"))
		}
		if a["will"] != "" {
			c.Will = &packet.Will{Topic: []byte(a["will"]), Payload: []byte("gone"), QoS: packet.QoS(num("willqos")), Retain: a["willretain"] != "",
				DelayInterval: uint32(num("delay"))}
		}
		return received(c)
	case "garbled":
		in := session.Input{Kind: session.Garbled, Text: a["text"], Err: &packet.Error{Code: code, Clause: "x", Message: "garbled"}}
		if a["v"] != "" {
			in.Packet = &packet.Connect{Version: packet.Version(num("v")), AsksProblemInformation: a["bare"] == ""}
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
		in := received(&packet.Pubrec{PacketID: uint16(num("id")), ReasonCode: code, UserProperties: user})
		in.Congested = a["congested"] != ""
		return in
	case "pubrel":
		return received(&packet.Pubrel{PacketID: uint16(num("id")), UserProperties: user})
	case "pubcomp":
		in := received(&packet.Pubcomp{PacketID: uint16(num("id")), ReasonCode: code, UserProperties: user})
		in.Congested = a["congested"] != ""
		return in
	case "subscribe":
		p := &packet.Subscribe{PacketID: uint16(num("id")), SubscriptionIdentifier: uint32(num("sid")), UserProperties: user}
		for f := range strings.SplitSeq(a["to"], ",") {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{
				Filter: f, QoS: packet.QoS(num("qos")), NoLocal: a["nolocal"] != "", RetainAsPublished: a["rap"] != "", RetainHandling: uint8(num("rh")),
			})
		}
		return received(p)
	case "unsubscribe":
		return received(&packet.Unsubscribe{PacketID: uint16(num("id")), Filters: strings.Split(a["from"], ","), UserProperties: user})
	case "ping":
		return received(&packet.Pingreq{})
	case "auth":
		p := &packet.Auth{ReasonCode: code, AuthenticationMethod: a["method"], UserProperties: user}
		if a["data"] != "" {
			p.AuthenticationData = []byte(a["data"])
		}
		return received(p)
	case "challenge":
		return session.Input{Kind: session.Challenge, Data: []byte(a["data"])}
	case "connack":
		return received(&packet.Connack{})
	case "disconnect":
		d := &packet.Disconnect{ReasonCode: code, UserProperties: user}
		if a["expiry"] != "" {
			d.SessionExpiryInterval = packet.Some(uint32(num("expiry")))
		}
		return received(d)
	case "admitted", "reauthenticated":
		ad := &session.Admission{Resumed: a["resumed"] != "", Stored: a["stored"] != ""}
		if a["expires"] != "" {
			d, err := time.ParseDuration(a["expires"])
			if err != nil {
				t.Fatal(err)
			}
			ad.ExpiresAt, ad.ExpiryDetail = epoch.Add(d), "the certificate expired"
		}
		if a["data"] != "" {
			ad.AuthData = []byte(a["data"])
		}
		if a["state"] != "" {
			ad.State = r.saved
		}
		if verb == "reauthenticated" {
			return session.Input{Kind: session.Reauthenticated, Admission: ad}
		}
		return session.Input{Kind: session.Admitted, Admission: ad}
	case "refused":
		return session.Input{Kind: session.Refused, Code: code, Text: a["text"]}
	case "committed":
		return session.Input{Kind: session.Committed, Token: uint64(num("token")), Code: code}
	case "granted":
		in := session.Input{Kind: session.Committed, Token: uint64(num("token"))}
		for c := range strings.SplitSeq(a["codes"], ",") {
			n, err := strconv.ParseUint(c, 0, 8)
			if err != nil {
				t.Fatal(err)
			}
			in.Codes = append(in.Codes, packet.ReasonCode(n))
		}
		return in
	case "deliver":
		m := r.messages[a["payload"]]
		if m == nil {
			name := a["topic"]
			if name == "" {
				name = "t"
			}
			m = &session.Message{Publish: packet.Publish{Topic: []byte(name), Payload: []byte(a["payload"]), QoS: packet.QoS(num("published"))}, Received: epoch}
			if a["expiry"] != "" {
				m.MessageExpiryInterval = packet.Some(uint32(num("expiry")))
			}
		}
		in := session.Input{Kind: session.Deliver, Message: m, QoS: packet.QoS(num("qos")), Retain: a["retain"] != "",
			PacketID: uint16(num("id")), Share: a["share"], Congested: a["congested"] != ""}
		if a["sids"] != "" {
			for n := range strings.SplitSeq(a["sids"], ",") {
				id, err := strconv.Atoi(n)
				if err != nil {
					t.Fatal(err)
				}
				in.SubscriptionIDs = append(in.SubscriptionIDs, uint32(id))
			}
		}
		return in
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
