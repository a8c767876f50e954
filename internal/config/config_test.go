package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rollcall/internal/config"
	"rollcall/internal/fault"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rollcall.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPrecedence(t *testing.T) {
	f := file(t, `
profile: azure
data: /from/file
mqtt: {maxInflight: 7}
listen: {https: [], mqtts: ["127.0.0.1:0"]}
delivery: {schedule: [1s, 2s], responseTimeout: 5s, probation: {enabled: false}}
log: {level: warn}
webhook: {allowPrivate: true}
`)
	c, err := config.Load(f, []string{
		"ROLLCALL_DATA=/from/env", "ROLLCALL_MQTT_QUEUE_MESSAGES=9", "ROLLCALL_LISTEN_HTTP=",
		"ROLLCALL_DELIVERY_SCHEDULE=3s, 4s", "ROLLCALL_WEBHOOK_ALLOW_HTTP=false", "ROLLCALL_LOG_LEVEL=debug",
		"ROLLCALL_TOKEN=not-a-setting", "HOME=/x",
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Profile != config.Azure || c.Data != "/from/env" || c.MQTT.MaxInflight != 7 || c.MQTT.QueueMessages != 9 {
		t.Errorf("got %+v", c)
	}
	if c.MQTT.MaxKeepAlive != 1160 {
		t.Errorf("the defaults are not those of the profile: keep-alive %d", c.MQTT.MaxKeepAlive)
	}
	if len(c.Listen.HTTP) != 0 || len(c.Listen.HTTPS) != 0 || len(c.Listen.MQTT) != 0 {
		t.Errorf("listeners %+v, want only mqtts", c.Listen)
	}
	if s := c.Delivery.Schedule; len(s) != 2 || s[0] != 3*time.Second || s[1] != 4*time.Second {
		t.Errorf("schedule %v", s)
	}
	if c.Delivery.ResponseTimeout != 5*time.Second || c.Delivery.Probation.Enabled || c.Delivery.Probation.Threshold != 10 {
		t.Errorf("delivery %+v", c.Delivery)
	}
	if c.Webhook.AllowHTTP == nil || *c.Webhook.AllowHTTP || c.Webhook.AllowPrivate == nil || !*c.Webhook.AllowPrivate {
		t.Errorf("webhook %+v", c.Webhook)
	}
	if c.Log.Level.String() != "DEBUG" {
		t.Errorf("log level %v", c.Log.Level)
	}
}

func TestUnknownNamesAreErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, env, want string }{
		{"key", "mqtt: {maxInflite: 7}", "", "maxInflite"},
		{"nested key", "delivery: {probation: {on: true}}", "", "on"},
		{"variable", "", "ROLLCALL_MQTT_MAXINFLIGHT=7", "ROLLCALL_MQTT_MAXINFLIGHT"},
		{"bad value", "mqtt: {maxInflight: many}", "", "maxInflight"},
		{"bad variable", "", "ROLLCALL_SHUTDOWN_TIMEOUT=soon", "soon"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var env []string
			if tc.env != "" {
				env = []string{tc.env}
			}
			_, err := config.Load(file(t, tc.text), env, "")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that names %s", err, tc.want)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	c := config.Default(config.Open)
	c.Profile = "blue"
	c.MQTT.MaxInflight = 0
	c.Delivery.Workers = 0
	c.Listen.MQTT = []string{"0.0.0.0:1883"}
	c.Access.NoAuth = true
	err := c.Validate()
	f, ok := fault.As(err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	var paths []string
	for _, d := range f.Details {
		paths = append(paths, d.Target)
	}
	for _, want := range []string{"profile", "mqtt.maxInflight", "delivery.workers", "listen.mqtt", "access.noAuth"} {
		if !strings.Contains(strings.Join(paths, " "), want) {
			t.Errorf("no mistake at %s in %v", want, paths)
		}
	}
}

func TestListeners(t *testing.T) {
	for _, tc := range []struct {
		addr     string
		allowAll bool
		ok       bool
	}{
		{"localhost:0", false, true}, {"127.0.0.1:1", false, true}, {"[::1]:1883", false, true},
		{":1883", false, false}, {":1883", true, true}, {"0.0.0.0:1883", true, true},
		{"example.com:1883", true, false}, {"1883", false, false}, {"127.0.0.1:", false, false},
	} {
		c := config.Default(config.Open)
		c.Listen.MQTT = []string{tc.addr}
		c.Access.AllowAll = tc.allowAll
		if err := c.Validate(); (err == nil) != tc.ok {
			t.Errorf("%q, allowAll %v: got %v", tc.addr, tc.allowAll, err)
		}
	}
}

func TestEveryVariableIsKnown(t *testing.T) {
	for _, name := range config.Variables() {
		if _, err := config.Load("", []string{name + "="}, ""); err != nil && strings.Contains(err.Error(), "names no setting") {
			t.Error(err)
		}
	}
}

// What a webhook setting cannot mean is found at start, and told without the
// secrets that a URL may hold.
func TestWebhookURLs(t *testing.T) {
	for _, tc := range []struct {
		proxy, public, path string
	}{
		{"http://proxy:3128", "https://grid.example.com", ""},
		{"socks5://user:secret@proxy:1080", "http://10.0.0.1:8080/base", ""},
		{"proxy:3128", "", "webhook.proxy"},
		{"ftp://user:secret@proxy", "", "webhook.proxy"},
		{"http://user:secret@proxy:port", "", "webhook.proxy"},
		{"", "grid.example.com", "webhook.publicUrl"},
		{"", "https://grid.example.com/", "webhook.publicUrl"},
		{"", "https://grid.example.com?a=secret", "webhook.publicUrl"},
		{"", "https://user:secret@grid.example.com", "webhook.publicUrl"},
	} {
		c := config.Default(config.Open)
		c.Webhook.Proxy, c.Webhook.PublicURL = tc.proxy, tc.public
		err := c.Validate()
		switch {
		case tc.path == "":
			if err != nil {
				t.Errorf("proxy %q, public URL %q: %v", tc.proxy, tc.public, err)
			}
		case err == nil || !strings.Contains(err.Error(), tc.path) || strings.Contains(err.Error(), "secret"):
			t.Errorf("proxy %q, public URL %q: got %v, want a mistake at %s without the secret", tc.proxy, tc.public, err, tc.path)
		}
	}
}

// TestP7ReserveThatCannotBeKept: one log rotation takes nearly 9 MiB, so
// smaller reserves and margins are refused.
func TestP7ReserveThatCannotBeKept(t *testing.T) {
	for _, tc := range []struct {
		lowWater, reserve int64
		ok                bool
	}{{256 << 20, 64 << 20, true}, {48 << 20, 16 << 20, true}, {16 << 20, 8 << 20, false}, {64 << 20, 8 << 20, false}, {40 << 20, 16 << 20, false}} {
		c := config.Default(config.Open)
		c.Storage.LowWater, c.Storage.Reserve = tc.lowWater, tc.reserve
		if err := c.Validate(); (err == nil) != tc.ok {
			t.Errorf("lowWater %d, reserve %d: %v", tc.lowWater, tc.reserve, err)
		}
	}
}
