// Package hostile tests what a server does with peers that mean it no good:
// each gets the documented answer, memory stays bounded, and a bystander is
// not disconnected.
package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

func TestMain(m *testing.M) {
	if target := os.Getenv(bystanderTarget); target != "" {
		os.Exit(standBy(target))
	}
	code := m.Run()
	servertest.CleanUp()
	os.Exit(code)
}

const settings = `
mqtt: {connectTimeout: 2s}
storage: {lowWater: 67108864, reserve: 16777216}
log: {level: error}
`

func start(t *testing.T) *servertest.Process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "rollcall.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	p := servertest.StartProcessFirst(t, filepath.Join(dir, "data"), "--config", file,
		"--mqtt", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	t.Cleanup(func() { p.Kill() })
	return p
}

// memory is what the process has resident, in bytes.
func memory(t *testing.T, pid int) int {
	t.Helper()
	return status(t, pid, "VmRSS:")
}

// status is a figure of /proc/PID/status, in bytes (proc_pid_status(5)).
func status(t *testing.T, pid int, name string) int {
	t.Helper()
	lines, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no %s", name)
	return 0
}

// raw opens a TCP connection to the MQTT listener and writes bytes.
func raw(t *testing.T, i app.ReadyInfo, b []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", i.MQTT[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c
}

// answer reads until the server closes.
func answer(t *testing.T, c net.Conn) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(servertest.Patience)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("the server did not close in order: %v", err)
	}
	return b
}

func connect(t *testing.T, v packet.Version, id string) []byte {
	t.Helper()
	b, err := (&packet.Connect{ClientID: id, CleanStart: true, ReceiveMaximum: 65535}).AppendTo(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBytes sends bytes that are no MQTT, before and after CONNECT.
func TestBytes(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	for _, tc := range []struct {
		name   string
		bytes  string // after a CONNECT of MQTT 5
		reason packet.ReasonCode
	}{
		{"oversized", "\x30\xff\xff\xff\x7f", packet.PacketTooLarge},
		{"reserved type", "\x00\x00", packet.ProtocolError},
		{"wrong flags", "\x83\x00", packet.MalformedPacket},
		{"remaining length too long", "\x30\xff\xff\xff\xff\x01", packet.MalformedPacket},
		{"invalid UTF-8 topic", "\x30\x05\x00\x02\xc3\x28\x00", packet.MalformedPacket},
		{"NUL in topic", "\x30\x05\x00\x02a\x00\x00", packet.MalformedPacket},
		{"surrogate in topic", "\x30\x06\x00\x03\xed\xa0\x80\x00", packet.MalformedPacket},
		{"wildcard in topic", "\x30\x04\x00\x01#\x00", packet.MalformedPacket},
		{"QoS 3", "\x36\x05\x00\x01a\x00\x01\x00", packet.MalformedPacket},
		{"subscribe without filters", "\x82\x03\x00\x01\x00", packet.ProtocolError},
		{"property twice", "\x30\x0e\x00\x01a\x0a\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", packet.ProtocolError},
		{"second connect", string(connect(t, packet.V5, "x")), packet.ProtocolError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := raw(t, p.Info, append(connect(t, packet.V5, "victim"), tc.bytes...))
			got := answer(t, c)
			n, err := packet.Frame(got, 0)
			if err != nil || n == 0 || got[0] != 0x20 {
				t.Fatalf("no CONNACK: % x", got)
			}
			d := new(packet.Disconnect)
			if err := d.Decode(packet.V5, got[n:]); err != nil || d.ReasonCode != tc.reason {
				t.Errorf("got % x, want DISCONNECT %s", got[n:], tc.reason)
			}
		})
	}
	for _, tc := range []struct{ name, bytes, want string }{
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"nothing of MQTT", strings.Repeat("\xff", 100), ""},
		{"MQTT 3.1", "\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a", "\x20\x02\x00\x01"},
		{"MQTT 6", "\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01a", ""},
		{"oversized CONNECT", "\x10\xff\xff\xff\x7f\x00\x04MQTT", ""},
		{"publish before connect", "\x30\x03\x00\x01a", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := answer(t, raw(t, p.Info, []byte(tc.bytes)))
			if tc.name == "MQTT 6" {
				if len(got) < 4 || got[0] != 0x20 || got[3] != byte(packet.UnsupportedProtocolVersion) {
					t.Errorf("got % x, want CONNACK 0x84", got)
				}
			} else if string(got) != tc.want {
				t.Errorf("got % x, want % x", got, tc.want)
			}
		})
	}
}

// TestSlowAndSilent: connections that say nothing, or say CONNECT a byte at a
// time, are closed in time; ten thousand of them cost bounded memory.
func TestSlowAndSilent(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	before := memory(t, p.PID())
	const silent = 10_000
	conns := make([]net.Conn, 0, silent)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for len(conns) < silent {
		c, err := net.Dial("tcp", p.Info.MQTT[0])
		if err != nil {
			t.Fatalf("connection %d: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	grown := memory(t, p.PID()) - before
	t.Logf("%d silent connections: %d bytes resident each", silent, grown/silent)
	if grown > silent*32<<10 {
		t.Errorf("silent connections cost %d bytes each", grown/silent)
	}
	slow := raw(t, p.Info, nil)
	began := time.Now()
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	go func() { // a slow-loris: it ends when the server closes
		for _, b := range connect(t, packet.V5, strings.Repeat("x", 100)) {
			<-pace.C
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
		}
	}()
	if got := answer(t, slow); len(got) != 0 {
		t.Errorf("the slow-loris got % x", got)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the slow-loris was let go on for %s", took)
	}
	for _, c := range conns[silent-10:] {
		if got := answer(t, c); len(got) != 0 {
			t.Errorf("a silent connection got % x", got)
		}
	}
}

// TestWrongCertificates: TLS that fails, and certificates that nobody knows.
func TestWrongCertificates(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	c := raw(t, p.Info, nil)
	c.Close()
	plain, err := net.Dial("tcp", p.Info.MQTTS[0])
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	plain.Write(connect(t, packet.V5, "plain"))
	plain.SetReadDeadline(time.Now().Add(servertest.Patience))
	if b, err := io.ReadAll(plain); err == nil && bytes.HasPrefix(b, []byte{0x20}) {
		t.Error("plain MQTT was answered on the TLS port")
	}
	tc := servertest.TLS(t, p.Info)
	tc.MinVersion, tc.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", p.Info.MQTTS[0], tc); err == nil {
		c.Close()
		t.Error("TLS 1.1 was accepted")
	}
	tc = servertest.TLS(t, p.Info)
	tc.RootCAs = nil
	if c, err := tls.Dial("tcp", p.Info.MQTTS[0], tc); err == nil {
		c.Close()
		t.Error("the server's certificate is trusted without its CA")
	}
}

// TestPasswordFlood: wrong passwords are refused, and cost others nothing.
func TestPasswordFlood(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	must := func(method, path string, body any) {
		t.Helper()
		if status, text, err := servertest.Call(t.Context(), p.Info, method, path, body); err != nil || status >= 300 {
			t.Fatalf("%d %s %v", status, text, err)
		}
	}
	must(http.MethodPut, servertest.ARM(p.Info, "/clients/gate"), map[string]any{"properties": map[string]any{}})
	must(http.MethodPost, "/rollcall/v1/clients/gate/password", map[string]string{"password": "right"})
	before := memory(t, p.PID())
	codes := map[packet.ReasonCode]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for n := range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
				_, ack, err := peer.Dial(ctx, servertest.Target(p.Info, "tcp"), packet.V5, nil, packet.Connect{
					ClientID: fmt.Sprintf("f%d-%d", w, n), CleanStart: true, ReceiveMaximum: 10,
					UserName: packet.Some("gate"), Password: []byte("wrong")})
				cancel()
				mu.Lock()
				if err == nil || ack == nil {
					t.Errorf("wrong password: %v", err)
				} else {
					codes[ack.ReasonCode]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("answers: %v", codes)
	for code := range codes {
		switch code {
		case packet.BadUserNameOrPassword, packet.ServerBusy, packet.ConnectionRateExceeded:
		default:
			t.Errorf("a wrong password was answered with %s", code)
		}
	}
	if grown := memory(t, p.PID()) - before; grown > 256<<20 {
		t.Errorf("the flood made the server %d MiB larger", grown>>20)
	}
}

// TestHTTP: body bombs, DNS rebinding, cross-site requests and WebSockets,
// targets that are forbidden.
func TestHTTP(t *testing.T) {
	p := start(t)
	by := newBystander(t, p.Info)
	defer by.end(t)
	host := strings.TrimPrefix(p.Info.HTTP[0], "http://")
	client := servertest.ARM(p.Info, "/clients/x")
	sub := servertest.ARM(p.Info, "/providers/Microsoft.EventGrid/eventSubscriptions/evil")
	webhook := func(url string) string {
		return fmt.Sprintf(`{"properties":{"destination":{"endpointType":"WebHook","properties":{"endpointUrl":%q}},"eventDeliverySchema":"CloudEventSchemaV1_0"}}`, url)
	}
	auth := "Bearer " + p.Info.Token
	for _, tc := range []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
	}{
		{"body bomb", "PUT", client, `{"properties":{"description":"` + strings.Repeat("x", 8<<20) + `"}}`, map[string]string{"Authorization": auth}, 413},
		{"deep JSON", "PUT", client, strings.Repeat(`{"a":`, 100_000), map[string]string{"Authorization": auth}, 400},
		{"no token", "PUT", client, `{}`, nil, 401},
		{"wrong token", "PUT", client, `{}`, map[string]string{"Authorization": "Bearer wrong"}, 401},
		{"DNS rebinding", "GET", "/rollcall/v1/sessions", "", map[string]string{"Host": "evil.example:8080"}, 421},
		{"DNS rebinding write", "PUT", client, `{}`, map[string]string{"Host": "evil.example", "Authorization": auth}, 421},
		{"cross-site simple POST", "POST", "/rollcall/v1/sessions/x/end", `{}`, map[string]string{"Origin": "http://evil.example", "Content-Type": "text/plain", "Authorization": auth}, 403},
		{"cross-site fetch", "GET", "/rollcall/v1/sessions", "", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"cross-site WebSocket", "GET", "/mqtt", "", map[string]string{"Origin": "http://evil.example", "Upgrade": "websocket", "Connection": "Upgrade",
			"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": "mqtt"}, 403},
		{"metadata address", "PUT", sub, webhook("http://169.254.169.254/latest/meta-data/"), map[string]string{"Authorization": auth}, 400},
		{"metadata in IPv6", "PUT", sub, webhook("http://[fd00:ec2::254]/"), map[string]string{"Authorization": auth}, 400},
		{"unspecified address", "PUT", sub, webhook("http://0.0.0.0:80/"), map[string]string{"Authorization": auth}, 400},
		{"other scheme", "PUT", sub, webhook("file:///etc/passwd"), map[string]string{"Authorization": auth}, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			h := host
			if tc.header["Host"] != "" {
				h = tc.header["Host"]
			}
			fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", tc.method, tc.path, h)
			for k, v := range tc.header {
				if k != "Host" {
					fmt.Fprintf(&b, "%s: %s\r\n", k, v)
				}
			}
			if tc.body != "" {
				fmt.Fprintf(&b, "Content-Length: %d\r\n", len(tc.body))
				if tc.header["Content-Type"] == "" {
					b.WriteString("Content-Type: application/json\r\n")
				}
			}
			b.WriteString("\r\n")
			c, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(servertest.Patience))
			go func() { // the server may answer before it has read it all
				io.WriteString(c, b.String()+tc.body)
			}()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
			if res.StatusCode != tc.status {
				t.Errorf("status %d, want %d: %s", res.StatusCode, tc.status, text)
			}
			if tc.path != "/mqtt" {
				var e struct {
					Error struct{ Code, Message string }
				}
				if json.Unmarshal(text, &e) != nil || e.Error.Code == "" || e.Error.Message == "" {
					t.Errorf("no error body: %s", text)
				}
			}
			if res.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Error("a CORS header was sent")
			}
		})
	}
}
