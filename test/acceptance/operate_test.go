package acceptance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"rollcall/internal/cli"
	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// operate runs a command of the command line against s and returns what it
// prints. It fails unless the exit code is the wanted one.
func operate(t *testing.T, s *servertest.Server, want int, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := cli.Main(append(args, "--url", s.Info.HTTP[0], "--token", s.Info.Token), strings.NewReader(""), &out, &errOut); code != want {
		t.Fatalf("rollcall %s: exit %d, %s%s", strings.Join(args, " "), code, out.String(), errOut.String())
	}
	return out.String() + errOut.String()
}

// expect expects a packet of type P.
func expect[P packet.Packet](t *testing.T, c *peer.Conn) P {
	t.Helper()
	got, err := c.Receive(time.Now().Add(servertest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	p, ok := got.(P)
	if !ok {
		t.Fatalf("received %s %+v", got.Type(), got)
	}
	return p
}

// TestFreeAClientID: a stored session keeps others from its client id until an
// operator deletes it, whether it is connected or not; then it is theirs, and
// nothing is left of it.
func TestFreeAClientID(t *testing.T) {
	s := servertest.Start(t, func(c *config.Config) { c.MQTT.QueueMessages = 3 })
	pair := func(name string) tls.Certificate {
		s.PutClient(name, map[string]any{})
		var c struct{ Certificate, PrivateKey string }
		if err := json.Unmarshal(s.Must(http.MethodPost, "/rollcall/v1/clients/"+name+"/certificate", map[string]int{"days": 1}), &c); err != nil {
			t.Fatal(err)
		}
		p, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	certs := make(map[string]tls.Certificate)
	dial := func(name string) (*peer.Conn, packet.ReasonCode) {
		ctx, cancel := context.WithTimeout(context.Background(), servertest.Patience)
		defer cancel()
		c, err := peer.Open(ctx, s.Target("tls"), packet.V5, s.TLS(certs[name]))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ack, err := c.Connect(ctx, &packet.Connect{ClientID: "pump 7/a", SessionExpiryInterval: 0xFFFFFFFF, ReceiveMaximum: 10, UserName: packet.Some(name)})
		if err != nil {
			t.Fatal(err)
		}
		return c, ack.ReasonCode
	}
	certs["first"], certs["second"] = pair("first"), pair("second")
	for _, connected := range []bool{false, true} {
		c, code := dial("first")
		if code != packet.Success {
			t.Fatalf("the first client is refused: %s", code)
		}
		if err := c.Send(&packet.Subscribe{PacketID: 1, SubscriptionIdentifier: 9, Subscriptions: []packet.Subscription{{Filter: "fleet/#", QoS: 1, NoLocal: true}}}); err != nil {
			t.Fatal(err)
		}
		expect[*packet.Suback](t, c)
		if !connected {
			if err := c.Disconnect(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(servertest.Patience); !strings.Contains(operate(t, s, 0, "session", "show", "pump 7/a"), "not connected"); {
				if time.Now().After(end) {
					t.Fatal("the session does not end")
				}
			}
			pub := s.Dial("tcp", packet.V5, "pub")
			for range 5 {
				if err := pub.Send(&packet.Publish{Topic: []byte("fleet/x"), Payload: []byte("x"), QoS: packet.QoS1, PacketID: 1}); err != nil {
					t.Fatal(err)
				}
				expect[*packet.Puback](t, pub)
			}
			shown := operate(t, s, 0, "session", "show", "pump 7/a")
			for _, want := range []string{"for first, without end", "3 messages", "2 dropped", "fleet/# (QoS 1, no local, identifier 9)"} {
				if !strings.Contains(shown, want) {
					t.Errorf("session show does not say %q:\n%s", want, shown)
				}
			}
			if list := operate(t, s, 0, "session", "subscriptions", "pump 7/a", "--json"); !strings.Contains(list, `"filter": "fleet/#"`) {
				t.Errorf("session subscriptions: %s", list)
			}
		}
		if _, code := dial("second"); code != packet.NotAuthorized {
			t.Fatalf("the second client gets %s", code)
		}
		operate(t, s, 0, "session", "delete", "pump 7/a", "--why", "a test")
		if connected {
			if d := expect[*packet.Disconnect](t, c); d.ReasonCode != packet.AdministrativeAction {
				t.Errorf("DISCONNECT %s", d.ReasonCode)
			}
		}
		operate(t, s, 1, "session", "delete", "pump 7/a")
		c, code = dial("second")
		if code != packet.Success {
			t.Fatalf("the second client is refused: %s", code)
		}
		if shown := operate(t, s, 0, "session", "show", "pump 7/a"); !strings.Contains(shown, "for second") || !strings.Contains(shown, "0 messages") {
			t.Errorf("session show:\n%s", shown)
		}
		c.Close()
		operate(t, s, 0, "session", "delete", "pump 7/a")
	}
	operate(t, s, 1, "session", "delete", "never seen")
}

// TestRetainedByHand: an operator finds, reads and deletes retained messages.
func TestRetainedByHand(t *testing.T) {
	s := servertest.Start(t, nil)
	pub := s.Dial("tcp", packet.V5, "pub")
	for _, topic := range []string{"b", "a/1", "a/2", "/odd topic?"} {
		if err := pub.Send(&packet.Publish{Topic: []byte(topic), Payload: []byte("of " + topic), Retain: true, QoS: packet.QoS1, PacketID: 1}); err != nil {
			t.Fatal(err)
		}
		expect[*packet.Puback](t, pub)
	}
	if out := operate(t, s, 0, "retained", "list", "--limit", "2"); !strings.Contains(out, "/odd topic?") || !strings.Contains(out, `--after "a/1"`) || strings.Contains(out, "a/2") {
		t.Errorf("retained list:\n%s", out)
	}
	if out := operate(t, s, 0, "retained", "list", "--after", "a/1"); !strings.Contains(out, "a/2") || !strings.Contains(out, "b ") || strings.Contains(out, "more:") {
		t.Errorf("retained list:\n%s", out)
	}
	if out := operate(t, s, 0, "retained", "list", "--filter", "a/+", "--json"); strings.Count(out, `"topic"`) != 2 {
		t.Errorf("retained list:\n%s", out)
	}
	operate(t, s, 1, "retained", "list", "--filter", "a/#/b")
	operate(t, s, 1, "retained", "list", "--filter", "$share/g/a")
	if out := operate(t, s, 0, "retained", "show", "/odd topic?", "--raw"); out != "of /odd topic?" {
		t.Errorf("retained show: %q", out)
	}
	if out := operate(t, s, 0, "retained", "show", "a/1"); !strings.Contains(out, `"of a/1"`) || !strings.Contains(out, "pub at") {
		t.Errorf("retained show:\n%s", out)
	}
	operate(t, s, 0, "retained", "delete", "/odd topic?")
	operate(t, s, 1, "retained", "delete", "/odd topic?")
	operate(t, s, 1, "retained", "show", "/odd topic?")
	if out := operate(t, s, 0, "retained", "list"); strings.Contains(out, "odd") || !strings.Contains(out, "a/1") {
		t.Errorf("retained list:\n%s", out)
	}
}
