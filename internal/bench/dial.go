package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"rollcall/internal/mqtt/packet"
)

// target is a broker's address.
type target struct {
	url     *url.URL
	address string // host:port
	tls     bool
	ws      bool
}

// parseTarget reads host, host:port, or a URL of mqtt, mqtts, ws or wss.
func parseTarget(text string) (*target, error) {
	if !strings.Contains(text, "://") {
		text = "mqtt://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the broker's address: %w", err)
	}
	t := &target{url: u}
	port := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "ssl", "tls":
		t.tls, port = true, "8883"
	case "ws":
		t.ws, port = true, "80"
	case "wss":
		t.ws, t.tls, port = true, true, "443"
	default:
		return nil, fmt.Errorf("the broker's address: %q is none of mqtt, mqtts, ws and wss", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("the broker's address has no host")
	}
	if u.User != nil {
		return nil, errors.New("the broker's address holds a user name; there are options for that")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	t.address = net.JoinHostPort(u.Hostname(), port)
	if t.ws && u.Path == "" {
		u.Path = "/mqtt"
	}
	return t, nil
}

// transport is tcp, tls, ws or wss.
func (t *target) transport() string {
	switch {
	case t.ws && t.tls:
		return "wss"
	case t.ws:
		return "ws"
	case t.tls:
		return "tls"
	}
	return "tcp"
}

// RefusedError says that the broker refused what a scenario needs: it does not
// have it, or does not allow it.
type RefusedError struct {
	What string            // for example: "the subscription"
	Code packet.ReasonCode // why, in MQTT 5's terms
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused: the broker refuses %s (%s)", e.What, e.Code)
}

// client is a connection while it is set up: packets go one by one.
type client struct {
	nc   net.Conn
	v    packet.Version
	in   []byte
	name string
}

// dial opens the transport.
func (r *run) dial(ctx context.Context) (net.Conn, error) {
	t := r.target
	d := net.Dialer{KeepAlive: -1, LocalAddr: r.source()}
	if t.ws {
		w := ws.Dialer{Protocols: []string{"mqtt"}, TLSConfig: r.o.TLS, NetDial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", t.address)
		}}
		nc, early, _, err := w.Dial(ctx, t.url.String())
		if err != nil {
			return nil, err
		}
		if early == nil {
			early = bufio.NewReader(nc)
		}
		return &frames{Conn: nc, in: early}, nil
	}
	nc, err := d.DialContext(ctx, "tcp", t.address)
	if err != nil || !t.tls {
		return nc, err
	}
	config := r.o.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName = t.url.Hostname()
	}
	c := tls.Client(nc, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

// portsEach is how many connections leave from one address of loopback, which
// has fewer than 65,536 ports.
const portsEach = 20_000

// source is the address to connect from; nil is any. To a broker on loopback
// connections leave from several addresses, so that ports suffice.
func (r *run) source() net.Addr {
	host := r.target.url.Hostname()
	if r.descriptors() <= portsEach || host != "localhost" && host != "127.0.0.1" {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+r.dialed.Add(1)/portsEach%250))}
}

// connect opens a connection and a session; the connection has no deadline.
func (r *run) connect(ctx context.Context, p packet.Connect) (*client, *packet.Connack, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	nc, err := r.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connect %s: %w", p.ClientID, err)
	}
	c := &client{nc: nc, v: r.o.Version, name: p.ClientID}
	deadline, _ := ctx.Deadline()
	if err := nc.SetDeadline(deadline); err != nil {
		return nil, nil, errors.Join(err, nc.Close())
	}
	p.UserName, p.Password = r.user, r.o.Password
	if p.ReceiveMaximum == 0 {
		p.ReceiveMaximum = 65535
	}
	ack, err := c.handshake(&p)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("connect %s: %w", p.ClientID, err), nc.Close())
	}
	return c, ack, nil
}

func (c *client) handshake(p *packet.Connect) (*packet.Connack, error) {
	got, err := c.exchange(p)
	if err != nil {
		return nil, err
	}
	ack, ok := got.(*packet.Connack)
	if !ok {
		return nil, fmt.Errorf("the broker answers CONNECT with %s", got.Type())
	}
	if ack.ReasonCode.Failed() {
		return nil, &RefusedError{What: "the connection", Code: ack.ReasonCode}
	}
	return ack, nil
}

// subscribe subscribes to all filters at once, and insists on the QoS.
func (c *client) subscribe(qos packet.QoS, filters ...string) error {
	p := &packet.Subscribe{PacketID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: qos})
	}
	got, err := c.exchange(p)
	if err != nil {
		return fmt.Errorf("%s subscribes: %w", c.name, err)
	}
	ack, ok := got.(*packet.Suback)
	if !ok {
		return fmt.Errorf("%s: the broker answers SUBSCRIBE with %s", c.name, got.Type())
	}
	for _, code := range ack.ReasonCodes {
		if code.Failed() {
			return &RefusedError{What: "the subscription to " + filters[0], Code: code}
		}
		if packet.QoS(code) < qos {
			return &RefusedError{What: fmt.Sprintf("QoS %d for the subscription to %s", qos, filters[0]), Code: packet.QoSNotSupported}
		}
	}
	return nil
}

// exchange sends a packet and returns the next one that comes.
func (c *client) exchange(p packet.Packet) (packet.Packet, error) {
	if err := c.send(p); err != nil {
		return nil, err
	}
	return c.receive()
}

func (c *client) send(p packet.Packet) error {
	b, err := p.AppendTo(nil, c.v)
	if err != nil {
		return err
	}
	_, err = c.nc.Write(b)
	return err
}

// receive returns the next packet. What is behind it stays in c.in.
func (c *client) receive() (packet.Packet, error) {
	for {
		_, n, err := cut(c.in, maxSetUp)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			frame := c.in[:n:n]
			c.in = c.in[n:]
			return packet.Decode(c.v, frame)
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads what there is.
func (c *client) fill() error {
	const least = 512
	if cap(c.in)-len(c.in) < least {
		c.in = append(make([]byte, 0, len(c.in)+2*least), c.in...)
	}
	n, err := c.nc.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 || err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the broker closed the connection")
	}
	return err
}

// maxSetUp bounds a packet that answers CONNECT or SUBSCRIBE, bytes.
const maxSetUp = 1 << 20

// disconnect ends session and connection in order.
func (c *client) disconnect() error {
	err := c.send(&packet.Disconnect{})
	return errors.Join(err, c.nc.Close())
}

// ready takes the deadline away.
func (c *client) ready() error { return c.nc.SetDeadline(time.Time{}) }
