package acceptance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"rollcall/internal/audit"
	"rollcall/internal/servertest"
)

// world is a server with one receiver and two subscriptions to it.
type world struct {
	*servertest.Server
	rc    *servertest.Receiver
	certs string // directory with dev.crt, dev.key, ca.crt
}

func newWorld(t *testing.T) *world {
	w := &world{Server: servertest.Start(t, nil), rc: servertest.NewReceiver(t)}
	w.Subscribe("first", w.rc.URL, nil)
	w.Subscribe("second", w.rc.URL, map[string]any{"eventDeliverySchema": "EventGridSchema"})
	return w
}

// issue registers a client and stores a certificate for it.
func (w *world) issue(t *testing.T, name string) {
	t.Helper()
	w.PutClient(name, map[string]any{})
	var c struct{ Certificate, PrivateKey, CA string }
	if err := json.Unmarshal(w.Must(http.MethodPost, "/rollcall/v1/clients/"+name+"/certificate", map[string]int{"days": 1}), &c); err != nil {
		t.Fatal(err)
	}
	w.certs = t.TempDir()
	for file, text := range map[string]string{"dev.crt": c.Certificate, "dev.key": c.PrivateKey, "ca.crt": c.CA} {
		if err := os.WriteFile(filepath.Join(w.certs, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// pair checks that both subscriptions were told of exactly one connection of
// the session, come and gone, and returns the reason.
func (w *world) pair(t *testing.T, session, reason string) {
	t.Helper()
	w.rc.Ended(t, session, 1)
	for _, sub := range []string{"FIRST", "SECOND"} {
		w.rc.Wait(t, func(ds []audit.Delivery) bool { return len(servertest.Events(ds, sub, session)) >= 2 })
		es := servertest.Events(w.rc.Deliveries(), sub, session)
		in, out := es[0], es[1]
		if strings.HasSuffix(in.Type, "Disconnected") {
			in, out = out, in
		}
		if len(es) != 2 || !strings.HasSuffix(in.Type, "SessionConnected") || !strings.HasSuffix(out.Type, "SessionDisconnected") ||
			in.Number != 1 || out.Number != 1 || out.Reason != reason {
			t.Errorf("%s of %s: %+v, want one pair with the reason %s", sub, session, es, reason)
		}
	}
}

// TestMosquitto: mosquitto_sub and mosquitto_pub, both versions, over TCP and
// TLS with a client certificate.
func TestMosquitto(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "dev")
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, transport := range []string{"tcp", "tls"} {
			t.Run(version+"/"+transport, func(t *testing.T) {
				sub, pub := "sub-"+version+transport, "pub-"+version+transport
				args := func(id string) []string {
					target, err := url.Parse(w.Target(transport))
					if err != nil {
						t.Fatal(err)
					}
					a := []string{"-V", version, "-h", target.Hostname(), "-p", target.Port(), "-i", id, "-q", "1", "-t", "room/" + sub}
					if transport == "tls" {
						a = append(a, "--cafile", w.certs+"/ca.crt", "--cert", w.certs+"/dev.crt", "--key", w.certs+"/dev.key", "-u", "dev")
					}
					return a
				}
				ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
				defer cancel()
				s := exec.CommandContext(ctx, "stdbuf", append([]string{"-oL", "mosquitto_sub"}, append(args(sub), "-C", "1", "-d")...)...)
				lines := start(t, s)
				lines.await(t, "Subscribed")
				p := exec.CommandContext(ctx, "mosquitto_pub", append(args(pub), "-m", "hello "+version)...)
				if out, err := p.CombinedOutput(); err != nil {
					t.Fatalf("mosquitto_pub: %v: %s", err, out)
				}
				lines.await(t, "hello "+version)
				if err := s.Wait(); err != nil {
					t.Fatalf("mosquitto_sub: %v", err)
				}
				w.pair(t, sub, "ClientInitiatedDisconnect")
				w.pair(t, pub, "ClientInitiatedDisconnect")
			})
		}
	}
}

// output follows what a command prints.
type output struct{ lines chan string }

func start(t *testing.T, cmd *exec.Cmd) *output {
	t.Helper()
	r, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &output{lines: make(chan string, 1000)}
	go func() {
		defer close(o.lines)
		text, buf := "", make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			text += string(buf[:n])
			for {
				line, rest, ok := strings.Cut(text, "\n")
				if !ok {
					break
				}
				o.lines <- line
				text = rest
			}
			if err != nil {
				if text != "" {
					o.lines <- text
				}
				return
			}
		}
	}()
	return o
}

func (o *output) await(t *testing.T, want string) {
	t.Helper()
	timeout := time.NewTimer(servertest.Patience)
	defer timeout.Stop()
	var seen []string
	for {
		select {
		case line, ok := <-o.lines:
			if !ok {
				t.Fatalf("%q was not printed, only:\n%s", want, strings.Join(seen, "\n"))
			}
			seen = append(seen, line)
			if strings.Contains(line, want) {
				return
			}
		case <-timeout.C:
			t.Fatalf("%q is not printed in time, only:\n%s", want, strings.Join(seen, "\n"))
		}
	}
}

// TestMQTTjs: MQTT.js, both versions, over TCP, TLS, WebSocket and WebSocket
// over TLS.
func TestMQTTjs(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "dev")
	for _, version := range []int{4, 5} {
		for _, transport := range []string{"tcp", "tls", "ws", "wss"} {
			t.Run(fmt.Sprintf("%d/%s", version, transport), func(t *testing.T) {
				id := fmt.Sprintf("js-%d-%s", version, transport)
				ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, "node", "echo.js", w.Target(transport), fmt.Sprint(version), id)
				cmd.Dir = "../clients"
				if transport == "tls" || transport == "wss" {
					cmd.Args = append(cmd.Args, w.certs, "dev")
				}
				out, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(out), "received hello") {
					t.Fatalf("%v: %s", err, out)
				}
				w.pair(t, id, "ClientInitiatedDisconnect")
			})
		}
	}
}

// TestPaho3: the Paho client for MQTT 3.1.1 in Go.
func TestPaho3(t *testing.T) {
	w := newWorld(t)
	w.issue(t, "dev")
	pair, err := tls.LoadX509KeyPair(w.certs+"/dev.crt", w.certs+"/dev.key")
	if err != nil {
		t.Fatal(err)
	}
	for _, transport := range []string{"tcp", "tls", "ws"} {
		t.Run(transport, func(t *testing.T) {
			id := "paho3-" + transport
			target := strings.NewReplacer("mqtts://", "ssl://", "mqtt://", "tcp://").Replace(w.Target(transport))
			o := mqtt3.NewClientOptions().AddBroker(target).SetClientID(id).SetAutoReconnect(false).SetProtocolVersion(4)
			if transport == "tls" {
				o.SetTLSConfig(w.TLS(pair)).SetUsername("dev")
			}
			c := mqtt3.NewClient(o)
			wait := func(tok mqtt3.Token) {
				t.Helper()
				if !tok.WaitTimeout(servertest.Patience) || tok.Error() != nil {
					t.Fatalf("%v", tok.Error())
				}
			}
			wait(c.Connect())
			got := make(chan string, 1)
			wait(c.Subscribe("a/+", 1, func(_ mqtt3.Client, m mqtt3.Message) { got <- string(m.Payload()) }))
			wait(c.Publish("a/b", 1, false, "hello"))
			if m := <-got; m != "hello" {
				t.Errorf("got %q", m)
			}
			c.Disconnect(1000)
			w.pair(t, id, "ClientInitiatedDisconnect")
		})
	}
}

// TestPaho5: the Paho client for MQTT 5 in Go, with its connection manager.
func TestPaho5(t *testing.T) {
	w := newWorld(t)
	for _, transport := range []string{"tcp", "tls", "ws"} {
		t.Run(transport, func(t *testing.T) {
			id := "paho5-" + transport
			u, err := url.Parse(w.Target(transport))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
			defer cancel()
			got := make(chan string, 1)
			cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
				ServerUrls: []*url.URL{u}, KeepAlive: 20, TlsCfg: w.TLS(), SessionExpiryInterval: 60,
				ClientConfig: paho.ClientConfig{ClientID: id, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
					func(p paho.PublishReceived) (bool, error) {
						got <- string(p.Packet.Payload)
						return true, nil
					},
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := cm.AwaitConnection(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := cm.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "x/#", QoS: 1}}}); err != nil {
				t.Fatal(err)
			}
			if _, err := cm.Publish(ctx, &paho.Publish{Topic: "x/y", QoS: 1, Payload: []byte("hello")}); err != nil {
				t.Fatal(err)
			}
			select {
			case m := <-got:
				if m != "hello" {
					t.Errorf("got %q", m)
				}
			case <-ctx.Done():
				t.Fatal("nothing came")
			}
			if err := cm.Disconnect(ctx); err != nil {
				t.Fatal(err)
			}
			w.pair(t, id, "ClientInitiatedDisconnect")
		})
	}
}

// TestTwoSubscriptionsOneReceiver: the delivery headers tell them apart, and
// each has its schema.
func TestTwoSubscriptionsOneReceiver(t *testing.T) {
	w := newWorld(t)
	if err := w.Dial("tcp", 5, "s").Disconnect(); err != nil {
		t.Fatal(err)
	}
	w.rc.Wait(t, func(ds []audit.Delivery) bool { return len(ds) >= 4 })
	for _, r := range w.rc.Requests() {
		h := r.Header
		body := strings.TrimSpace(string(r.Body))
		switch h.Get("aeg-subscription-name") {
		case "FIRST":
			if h.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || body[0] != '{' {
				t.Errorf("CloudEvents: %s %s", h.Get("Content-Type"), body)
			}
		case "SECOND":
			if h.Get("Content-Type") != "application/json; charset=utf-8" || body[0] != '[' {
				t.Errorf("Event Grid schema: %s %s", h.Get("Content-Type"), body)
			}
		default:
			t.Errorf("subscription %q", h.Get("aeg-subscription-name"))
		}
		if h.Get("aeg-event-type") != "Notification" || h.Get("aeg-delivery-count") != "0" || h.Get("aeg-output-event-id") == "" {
			t.Errorf("headers %v", h)
		}
	}
}
