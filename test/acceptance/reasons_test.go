package acceptance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// selfSigned makes a certificate of a life.
func selfSigned(t *testing.T, name string, life time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// signed makes a client certificate under a CA of selfSigned.
func signed(t *testing.T, ca tls.Certificate, name string) tls.Certificate {
	t.Helper()
	parent, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

func thumbprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// secure connects over TLS with a certificate.
func secure(t *testing.T, s *servertest.Server, id, user string, cert tls.Certificate) *peer.Conn {
	t.Helper()
	c, _, err := trySecure(t, s, id, user, cert)
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return c
}

func trySecure(t *testing.T, s *servertest.Server, id, user string, cert tls.Certificate) (*peer.Conn, *packet.Connack, error) {
	t.Helper()
	return peer.Dial(t.Context(), s.Target("tls"), packet.V5, s.TLS(cert),
		packet.Connect{ClientID: id, CleanStart: true, UserName: packet.Some(user), ReceiveMaximum: 100})
}

// farewell reads until the server's DISCONNECT and returns its reason code.
func farewell(t *testing.T, c *peer.Conn) packet.ReasonCode {
	t.Helper()
	for {
		p, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			t.Fatalf("no DISCONNECT: %v", err)
		}
		if d, ok := p.(*packet.Disconnect); ok {
			c.Close()
			return d.ReasonCode
		}
	}
}

// TestReasons produces each reason by a real situation, and sees it in the
// event, in what the client was told, and in the ledger's evidence.
func TestReasons(t *testing.T) {
	s := servertest.Start(t, nil)
	rc := servertest.NewReceiver(t)
	s.Subscribe("all", rc.URL, nil)
	ca := selfSigned(t, "a CA", time.Hour)
	thumb, short := selfSigned(t, "thumb", time.Hour), selfSigned(t, "short", 4*time.Second)
	s.Must(http.MethodPut, s.ARM("/caCertificates/fleet-ca"), map[string]any{"properties": map[string]any{"encodedCertificate": pemOf(ca)}})
	byThumb := func(c tls.Certificate) map[string]any {
		return map[string]any{"clientCertificateAuthentication": map[string]any{
			"validationScheme": "ThumbprintMatch", "allowedThumbprints": []string{thumbprint(c)}}}
	}
	for _, name := range []string{"disabled", "deleted", "rescheme", "untrusted"} {
		s.PutClient(name, map[string]any{})
	}
	s.PutClient("rethumb", byThumb(thumb))
	s.PutClient("short", byThumb(short))

	for _, tc := range []struct {
		name, reason, evidence string
		code                   packet.ReasonCode // DISCONNECT to the client; 0: none
		happen                 func(t *testing.T) *peer.Conn
	}{
		{"disabled", "ClientAuthenticationError", "config", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			c := secure(t, s, "disabled", "disabled", signed(t, ca, "disabled"))
			s.PutClient("disabled", map[string]any{"state": "Disabled"})
			return c
		}},
		{"deleted", "ClientAuthenticationError", "config", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			c := secure(t, s, "deleted", "deleted", signed(t, ca, "deleted"))
			s.Must(http.MethodDelete, s.ARM("/clients/deleted"), nil)
			return c
		}},
		{"rescheme", "ClientAuthenticationError", "config", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			c := secure(t, s, "rescheme", "rescheme", signed(t, ca, "rescheme"))
			s.PutClient("rescheme", map[string]any{"clientCertificateAuthentication": map[string]any{"validationScheme": "DnsMatchesAuthenticationName"}})
			return c
		}},
		{"rethumb", "ClientAuthenticationError", "config", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			c := secure(t, s, "rethumb", "rethumb", thumb)
			s.PutClient("rethumb", byThumb(selfSigned(t, "x", time.Hour)))
			return c
		}},
		{"untrusted", "ClientAuthenticationError", "config", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			c := secure(t, s, "untrusted", "untrusted", signed(t, ca, "untrusted"))
			s.Must(http.MethodDelete, s.ARM("/caCertificates/fleet-ca"), nil)
			return c
		}},
		{"short", "ClientAuthenticationError", "timer", packet.NotAuthorized, func(t *testing.T) *peer.Conn {
			return secure(t, s, "short", "short", short)
		}},
		{"violation", "ClientError", "packet", packet.TopicAliasInvalid, func(t *testing.T) *peer.Conn {
			c := s.Dial("tcp", packet.V5, "violation")
			send(t, c, &packet.Publish{Topic: []byte("a"), TopicAlias: 10_000})
			return c
		}},
		{"keepalive", "ClientError", "timer", packet.KeepAliveTimeout, func(t *testing.T) *peer.Conn {
			c, _ := s.DialWith("tcp", packet.V5, packet.Connect{ClientID: "keepalive", CleanStart: true, KeepAlive: 1})
			return c
		}},
		{"goodbye", "ClientInitiatedDisconnect", "packet", 0, func(t *testing.T) *peer.Conn {
			c := s.Dial("tcp", packet.V5, "goodbye")
			send(t, c, &packet.Disconnect{})
			return c
		}},
		{"closeframe", "ClientInitiatedDisconnect", "transport", 0, func(t *testing.T) *peer.Conn {
			c := s.Dial("ws", packet.V5, "closeframe")
			if err := c.CloseFrame(); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"eof", "ConnectionLost", "transport", 0, func(t *testing.T) *peer.Conn {
			c := s.Dial("tls", packet.V5, "eof")
			c.Close()
			return c
		}},
		{"reset", "ConnectionLost", "transport", 0, func(t *testing.T) *peer.Conn {
			c := s.Dial("tcp", packet.V311, "reset")
			if err := c.Abort(); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"kicked", "ServerInitiatedDisconnect", "operator", packet.AdministrativeAction, func(t *testing.T) *peer.Conn {
			c := s.Dial("tcp", packet.V5, "kicked")
			s.Must(http.MethodPost, "/rollcall/v1/sessions/kicked/end", map[string]string{"why": "test"})
			return c
		}},
		{"takenover", "SessionTakenOver", "takeover", packet.SessionTakenOver, func(t *testing.T) *peer.Conn {
			c := s.Dial("tcp", packet.V5, "takenover")
			second := s.Dial("ws", packet.V311, "takenover")
			t.Cleanup(func() { second.Close() })
			return c
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.happen(t)
			if tc.code != 0 {
				if got := farewell(t, c); got != tc.code {
					t.Errorf("the client was told %s, want %s", got, tc.code)
				}
			}
			if e := rc.Ended(t, tc.name, 1); e.Reason != tc.reason {
				t.Errorf("the event's reason is %s, want %s", e.Reason, tc.reason)
			}
			var h struct {
				Value []struct {
					Kind, Reason, EventID string
					Number                uint64
					Evidence              struct{ Kind, Detail string }
				}
			}
			if err := json.Unmarshal(s.Must(http.MethodGet, "/rollcall/v1/sessions/"+tc.name+"/history?order=oldest", nil), &h); err != nil {
				t.Fatal(err)
			}
			end := h.Value[1]
			if end.Kind != "disconnected" || end.Reason != tc.reason || end.Evidence.Kind != tc.evidence || end.Evidence.Detail == "" {
				t.Errorf("the ledger has %+v, want evidence of kind %s", end, tc.evidence)
			}
			if e := rc.Ended(t, tc.name, 1); e.ID != end.EventID {
				t.Errorf("the event has id %s, the ledger says %s", e.ID, end.EventID)
			}
		})
	}
}

func send(t *testing.T, c *peer.Conn, p packet.Packet) {
	t.Helper()
	if err := c.Send(p); err != nil {
		t.Fatal(err)
	}
}

// TestShutdownAndRestart: a shutdown ends sessions as ServerInitiatedDisconnect;
// numbers go on after it.
func TestShutdownAndRestart(t *testing.T) {
	cfg := servertest.Config(t)
	cfg.Delivery.Schedule = []time.Duration{50 * time.Millisecond}
	cfg.Delivery.RetryFloor = 10 * time.Millisecond
	rc := servertest.NewReceiver(t)
	s := servertest.Run(t, cfg)
	s.Subscribe("all", rc.URL, nil)
	c := s.Dial("tcp", packet.V5, "dev")
	old := s.Dial("tcp", packet.V311, "old")
	s.Stop()
	if got := farewell(t, c); got != packet.ServerShuttingDown {
		t.Errorf("the client was told %s", got)
	}
	if _, err := old.Receive(time.Now().Add(servertest.Patience)); err == nil {
		t.Error("a 3.1.1 client was sent a packet at shutdown")
	}
	again := servertest.Run(t, cfg)
	for _, name := range []string{"dev", "old"} {
		if e := rc.Ended(t, name, 1); e.Reason != "ServerInitiatedDisconnect" {
			t.Errorf("%s: reason %s", name, e.Reason)
		}
	}
	again.Dial("tcp", packet.V5, "dev").Disconnect()
	if e := rc.Ended(t, "dev", 2); e.Reason != "ClientInitiatedDisconnect" {
		t.Errorf("second connection: %+v", e)
	}
}

// TestRevocationRacesWithConnect disables a client again and again while it
// connects: it is never connected once the change has been answered.
func TestRevocationRacesWithConnect(t *testing.T) {
	s := servertest.Start(t, nil)
	cert := selfSigned(t, "racer", time.Hour)
	properties := func(state string) map[string]any {
		return map[string]any{"state": state, "clientCertificateAuthentication": map[string]any{
			"validationScheme": "ThumbprintMatch", "allowedThumbprints": []string{thumbprint(cert)}}}
	}
	for range 20 {
		s.PutClient("racer", properties("Enabled"))
		connected := make(chan *peer.Conn, 1)
		go func() {
			c, _, err := trySecure(t, s, "racer", "racer", cert)
			if err != nil {
				c = nil
			}
			connected <- c
		}()
		s.PutClient("racer", properties("Disabled"))
		if c := <-connected; c != nil {
			if got := farewell(t, c); got != packet.NotAuthorized {
				t.Errorf("told %s", got)
			}
		}
	}
}

// TestProfileAzure: what the documented service refuses is refused.
func TestProfileAzure(t *testing.T) {
	s := servertest.Start(t, func(c *config.Config) {
		a := config.Default(config.Azure)
		a.Data, a.Storage = c.Data, c.Storage
		a.Listen = c.Listen
		a.Listen.MQTT = nil
		*c = a
	})
	_, ack := s.DialWith("tls", packet.V5, packet.Connect{ClientID: "a", CleanStart: true, KeepAlive: 0, SessionExpiryInterval: 10})
	if ack.ServerKeepAlive.Value != 1160 || ack.MaximumPacketSize != 524288 || ack.TopicAliasMaximum != 10 ||
		ack.MaximumQoS.Or(2) != 1 || ack.SharedSubscriptionAvailable.Or(true) || ack.SubscriptionIdentifiersAvailable.Or(true) {
		t.Errorf("CONNACK %+v", ack)
	}
	c, err := peer.Open(t.Context(), s.Target("tls"), packet.V5, s.TLS())
	if err != nil {
		t.Fatal(err)
	}
	refused, err := c.Connect(t.Context(), &packet.Connect{ClientID: strings.Repeat("x", 129), CleanStart: true})
	if err != nil || refused.ReasonCode != packet.ClientIdentifierNotValid {
		t.Errorf("a long client id: %+v, %v", refused, err)
	}
}
