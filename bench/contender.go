package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// contender is a broker that is measured beside others: how it is started on
// one transport, with everything that would limit it turned off. Each start is
// a fresh process with fresh data.
type contender struct {
	name  string
	about string
	start func(ctx context.Context, v *versus, data, transport string) (p *process, target string, err error)
}

// contenders in the order in which they take turns.
var contenders = []contender{
	{"rollcall", "durable, data on disk", startRollcall},
	{"mosquitto", "of the distribution, persistence off", startMosquitto},
	{"nats", "nats-server with JetStream on disk", startNATS},
	{"mochi", "mochi-mqtt/server, nothing on disk", startMochi},
}

// errAbsent says that a contender is not on this machine.
var errAbsent = errors.New("not installed")

func startRollcall(ctx context.Context, v *versus, data, transport string) (*process, string, error) {
	s, err := v.serve(ctx, data, "--cert", v.cert, "--key", v.key, "--log-level", "warn")
	if err != nil {
		return nil, "", err
	}
	switch transport {
	case "tls":
		return s.process, "mqtts://" + s.info.MQTTS[0], nil
	case "ws":
		return s.process, "ws" + s.info.HTTP[0][len("http"):] + "/mqtt", nil
	}
	return s.process, "mqtt://" + s.info.MQTT[0], nil
}

func startMosquitto(ctx context.Context, v *versus, data, transport string) (*process, string, error) {
	file, err := exec.LookPath("mosquitto")
	if err != nil {
		if file = "/usr/sbin/mosquitto"; !exists(file) {
			return nil, "", errAbsent
		}
	}
	address, port, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	// As root it would become another user, who may not read the key. Limits
	// of 0 are none.
	text := fmt.Sprintf("user root\nallow_anonymous true\npersistence false\nlog_type error\nset_tcp_nodelay true\nmax_inflight_messages 0\nmax_queued_messages 0\nlistener %s 127.0.0.1\n", port)
	switch transport {
	case "tls":
		text += fmt.Sprintf("certfile %s\nkeyfile %s\n", v.cert, v.key)
	case "ws":
		text += "protocol websockets\n"
	}
	conf := data + ".mosquitto.conf"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	return listening(ctx, exec.Command(file, "-c", conf), data, address, transport)
}

func startNATS(ctx context.Context, v *versus, data, transport string) (*process, string, error) {
	address, _, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	mqtt := address
	text := ""
	if transport == "ws" { // MQTT over WebSocket needs both listeners
		if mqtt, _, err = freeAddress(); err != nil {
			return nil, "", err
		}
		text = fmt.Sprintf("websocket { listen: %q, no_tls: true }\n", address)
	}
	security := ""
	if transport == "tls" {
		security = fmt.Sprintf("tls { cert_file: %q, key_file: %q }", v.cert, v.key)
	}
	// A session's subscriptions and its PUBREL share 65,535 that are in flight.
	text += fmt.Sprintf("listen: \"127.0.0.1:-1\"\nserver_name: bench\nmax_connections: 1000000\njetstream { store_dir: %q }\nmqtt { listen: %q, max_ack_pending: 16384, %s }\n", data, mqtt, security)
	conf := data + ".nats.conf"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	return listening(ctx, exec.Command(filepath.Join(v.peerBin, "nats-server"), "-c", conf), data, address, transport)
}

func startMochi(ctx context.Context, v *versus, data, transport string) (*process, string, error) {
	address, _, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	args := []string{"-" + transport, address}
	if transport == "tls" {
		args = append(args, "-cert", v.cert, "-key", v.key)
	}
	return listening(ctx, exec.Command(filepath.Join(v.peerBin, "mochi"), args...), data, address, transport)
}

// listening starts a broker and waits until it listens.
func listening(ctx context.Context, cmd *exec.Cmd, data, address, transport string) (*process, string, error) {
	p, err := start(cmd, data+".log")
	if err != nil {
		return nil, "", err
	}
	if err := answers(ctx, p, address); err != nil {
		p.kill()
		return nil, "", err
	}
	switch transport {
	case "tls":
		return p, "mqtts://" + address, nil
	case "ws":
		return p, "ws://" + address + "/mqtt", nil
	}
	return p, "mqtt://" + address, nil
}

// answers waits until the process accepts connections.
func answers(ctx context.Context, p *process, address string) error {
	return until(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("%s ended: %w\n%s", filepath.Base(p.cmd.Path), p.err, p.printed())
		default:
		}
		if nc, err := net.Dial("tcp", address); err == nil {
			return true, nc.Close()
		}
		return false, nil // not yet
	})
}

func freeAddress() (address, port string, err error) {
	if address, err = freePort(); err == nil {
		_, port, err = net.SplitHostPort(address)
	}
	return address, port, err
}

// certify makes the certificate that all contenders present, so that all do
// the same work: ECDSA on P-256, signed by itself.
func (v *versus) certify() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	v.cert, v.key = filepath.Join(v.dir, "server.pem"), filepath.Join(v.dir, "server.key")
	return errors.Join(
		os.WriteFile(v.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(v.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}
