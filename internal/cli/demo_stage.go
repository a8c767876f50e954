package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

// stage is where the demo's devices play. Each scene waits for the events of
// the one before, so that the output reads in order.
type stage struct {
	ctx      context.Context
	info     app.ReadyInfo
	api      *api
	rc       *receiver
	say      func(string, ...any)
	seen     []audit.Sighting
	expected int // session events so far
}

// device is one connection of a device, and what it saw.
type device struct {
	conn *peer.Conn
	i    int // in stage.seen
}

func (st *stage) play() error {
	for _, scene := range []func() error{st.register, st.greet, st.vanish, st.takeOver, st.kick, st.disable, st.leave} {
		if err := scene(); err != nil {
			return err
		}
		if err := st.rc.settle(st.ctx, st.expected); err != nil {
			return err
		}
	}
	return nil
}

// devices by name, while they are connected.
var demoDevices = []string{"thermostat", "pump", "camera", "gateway", "lock"}

func (st *stage) register() error {
	st.say("The five devices are registered; the lock gets a certificate.")
	for _, name := range demoDevices {
		c := clientJSON{Properties: clientProperties{Attributes: map[string]any{"kind": name}}}
		if _, err := st.api.do(st.ctx, http.MethodPut, st.api.arm(clientPath(name)), c, nil); err != nil {
			return err
		}
		if name == "lock" {
			continue
		}
		if _, err := st.api.do(st.ctx, http.MethodPost, "/rollcall/v1"+clientPath(name)+"/password", map[string]string{"password": name + "'s secret"}, nil); err != nil {
			return err
		}
	}
	return nil
}

// connect lets a device connect with its password, or the lock with its
// certificate.
func (st *stage) connect(name string, v packet.Version) (*device, error) {
	p := packet.Connect{ClientID: name, CleanStart: true, KeepAlive: 60, ReceiveMaximum: 100}
	target := "mqtt://" + st.info.MQTT[0]
	var tc *tls.Config
	if name == "lock" {
		target = "mqtts://" + st.info.MQTTS[0]
		var err error
		if tc, err = st.certificate(name); err != nil {
			return nil, err
		}
		p.UserName = packet.Some(name)
	} else {
		p.UserName, p.Password = packet.Some(name), []byte(name+"'s secret")
	}
	s := audit.Sighting{Session: name, Sent: time.Now()}
	conn, _, err := peer.Dial(st.ctx, target, v, tc, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.Acked = time.Now()
	st.seen = append(st.seen, s)
	st.expected++
	return &device{conn: conn, i: len(st.seen) - 1}, nil
}

func (st *stage) certificate(name string) (*tls.Config, error) {
	var issued struct{ Certificate, PrivateKey, CA string }
	if _, err := st.api.do(st.ctx, http.MethodPost, "/rollcall/v1"+clientPath(name)+"/certificate", map[string]int{"days": 1}, &issued); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(issued.Certificate), []byte(issued.PrivateKey))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(st.info.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// gone notes that a device's connection has ended, for the reason given.
func (st *stage) gone(d *device, reason string) {
	s := &st.seen[d.i]
	s.Closed, s.Reason, s.Goodbye = time.Now(), reason, reason == "ClientInitiatedDisconnect"
	st.expected++
}

// expect waits for the server's DISCONNECT with a reason code.
func (st *stage) expect(d *device, code packet.ReasonCode) error {
	deadline, _ := st.ctx.Deadline()
	got, err := d.conn.Receive(deadline)
	if err != nil {
		return err
	}
	if p, ok := got.(*packet.Disconnect); !ok || p.ReasonCode != code {
		return fmt.Errorf("a device got %+v, expected DISCONNECT: %s", got, code)
	}
	return d.conn.Close()
}

// greet: the thermostat comes, publishes, hears itself, and leaves politely.
func (st *stage) greet() error {
	st.say("The thermostat connects (MQTT 5), publishes a reading, and says good-bye.")
	d, err := st.connect("thermostat", packet.V5)
	if err != nil {
		return err
	}
	deadline, _ := st.ctx.Deadline()
	err = d.conn.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "home/+/reading", QoS: 1}}})
	if err == nil {
		_, err = d.conn.Receive(deadline) // SUBACK
	}
	if err == nil {
		err = d.conn.Send(&packet.Publish{Topic: []byte("home/thermostat/reading"), Payload: []byte("21.5"), QoS: 1, PacketID: 2})
	}
	for acked, heard := false, false; err == nil && !(acked && heard); {
		var p packet.Packet
		if p, err = d.conn.Receive(deadline); err != nil {
			break
		}
		switch p := p.(type) {
		case *packet.Puback:
			acked = true
		case *packet.Publish:
			heard = true
			err = d.conn.Send(&packet.Puback{PacketID: p.PacketID})
		}
	}
	if err != nil {
		return fmt.Errorf("the thermostat: %w", err)
	}
	err = d.conn.Disconnect()
	st.gone(d, "ClientInitiatedDisconnect")
	return err
}

// vanish: the pump loses its connection.
func (st *stage) vanish() error {
	st.say("The pump connects (MQTT 3.1.1) and drops dead.")
	d, err := st.connect("pump", packet.V311)
	if err != nil {
		return err
	}
	if err := st.rc.settle(st.ctx, st.expected); err != nil {
		return err
	}
	err = d.conn.Abort()
	st.gone(d, "ConnectionLost")
	return err
}

// takeOver: the camera connects a second time while it is connected.
func (st *stage) takeOver() error {
	st.say("The camera connects, and then again while it is connected: taken over.")
	first, err := st.connect("camera", packet.V5)
	if err != nil {
		return err
	}
	second, err := st.connect("camera", packet.V5)
	if err != nil {
		return err
	}
	if err := st.expect(first, packet.SessionTakenOver); err != nil {
		return err
	}
	st.gone(first, "SessionTakenOver")
	if err := st.rc.settle(st.ctx, st.expected); err != nil {
		return err
	}
	err = second.conn.Disconnect()
	st.gone(second, "ClientInitiatedDisconnect")
	return err
}

// kick: an operator ends the gateway's session.
func (st *stage) kick() error {
	st.say("An operator ends the gateway's session.")
	d, err := st.connect("gateway", packet.V5)
	if err != nil {
		return err
	}
	if _, err := st.api.do(st.ctx, http.MethodPost, "/rollcall/v1/sessions/gateway/end", map[string]string{"why": "demo"}, nil); err != nil {
		return err
	}
	err = st.expect(d, packet.AdministrativeAction)
	st.gone(d, "ServerInitiatedDisconnect")
	return err
}

// disable: the lock, connected with its certificate, is disabled.
func (st *stage) disable() error {
	st.say("The lock connects over TLS with its certificate, and is disabled while connected.")
	d, err := st.connect("lock", packet.V5)
	if err != nil {
		return err
	}
	c := clientJSON{Properties: clientProperties{Attributes: map[string]any{"kind": "lock"}, State: "Disabled"}}
	if _, err := st.api.do(st.ctx, http.MethodPut, st.api.arm(clientPath("lock")), c, nil); err != nil {
		return err
	}
	if err := st.expect(d, packet.NotAuthorized); err != nil {
		return err
	}
	st.gone(d, "ClientAuthenticationError")
	var refused *peer.Refused
	if _, err := st.connect("lock", packet.V5); err == nil {
		return errors.New("the disabled lock was let in")
	} else if !errors.As(err, &refused) {
		return err
	}
	st.rc.print("  (it tries again and is refused: %s)\n", refused.Connack.ReasonCode)
	return nil
}

// leave: the pump comes back, with the next number.
func (st *stage) leave() error {
	st.say("The pump is back: its number goes on.")
	d, err := st.connect("pump", packet.V311)
	if err != nil {
		return err
	}
	err = d.conn.Disconnect()
	st.gone(d, "ClientInitiatedDisconnect")
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
