package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
)

// fleet is many devices against one broker.
type fleet struct {
	target string // as peer.Open takes it
	config *tls.Config
	prefix string // of the client ids
}

// inFlight is how many devices of a fleet connect at once.
const inFlight = 64

// keepAlive of the devices, in seconds: longer than any scenario, so that an
// idle device sends nothing, while the broker does watch over it.
const keepAlive = 900

// device is one connection. Plain and TLS ones are as lean as can be, so that
// the load costs little beside the broker.
type device struct {
	nc net.Conn
}

var goodbye = []byte{0xE0, 0x00} // DISCONNECT, normal

// connect connects the device of number n, with MQTT 5.
func (f *fleet) connect(ctx context.Context, n int) (device, error) {
	p := packet.Connect{ClientID: f.name(n), CleanStart: true, KeepAlive: keepAlive}
	if f.target[0] == 'w' { // ws or wss
		c, _, err := peer.Dial(ctx, f.target, packet.V5, f.config, p)
		if err != nil {
			return device{}, err
		}
		return device{nc: c.Net()}, nil
	}
	// Each source address has ports of its own.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+n%200))}, KeepAlive: -1}
	_, address, _ := cutScheme(f.target)
	nc, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return device{}, err
	}
	if f.config != nil {
		nc = tls.Client(nc, f.config)
	}
	if err := shake(nc, &p); err != nil {
		nc.Close()
		return device{}, fmt.Errorf("%s: %w", p.ClientID, err)
	}
	return device{nc: nc}, nil
}

// name is the client id of the device of number n.
func (f *fleet) name(n int) string { return fmt.Sprintf("%s-%06d", f.prefix, n) }

func cutScheme(target string) (scheme, address string, ok bool) {
	for i := range target {
		if target[i] == ':' && len(target) > i+3 {
			return target[:i], target[i+3:], true
		}
	}
	return "", target, false
}

// shake sends CONNECT and reads CONNACK.
func shake(nc net.Conn, p *packet.Connect) error {
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	out, err := p.AppendTo(make([]byte, 0, 64), packet.V5)
	if err != nil {
		return err
	}
	if _, err := nc.Write(out); err != nil {
		return err
	}
	in := make([]byte, 0, 256)
	for {
		n, err := nc.Read(in[len(in):cap(in)])
		if in = in[:len(in)+n]; err != nil {
			return err
		}
		size, err := packet.Frame(in, uint32(cap(in)))
		if err != nil {
			return err
		}
		if size == 0 {
			continue
		}
		got, err := packet.Decode(packet.V5, in[:size])
		if err != nil {
			return err
		}
		if ack, ok := got.(*packet.Connack); !ok || ack.ReasonCode.Failed() {
			return fmt.Errorf("it was not let in: %+v", got)
		}
		return nc.SetDeadline(time.Time{})
	}
}

// leave disconnects in order. A server that has closed the connection in the
// meantime is no error.
func (d device) leave() {
	_, _ = d.nc.Write(goodbye)
	d.nc.Close()
}

// open connects the devices first, first+1 … and keeps them connected.
func (f *fleet) open(ctx context.Context, first, count int) ([]device, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	devices := make([]device, count)
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range min(inFlight, count) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				d, err := f.connect(ctx, first+i)
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
					return
				}
				devices[i] = d
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		shut(devices)
		return nil, errors.Join(errs[:min(3, len(errs))]...)
	}
	return devices, nil
}

// shut disconnects all devices.
func shut(devices []device) {
	for _, d := range devices {
		if d.nc != nil {
			d.leave()
		}
	}
}
