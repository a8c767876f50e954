package cli

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rollcall/internal/event"
)

// run runs the command line as main does.
func run(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = Main(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestHelpTeaches(t *testing.T) {
	for _, args := range [][]string{
		{"--help"}, {"serve", "--help"}, {"demo", "--help"}, {"client", "--help"}, {"client", "create", "--help"},
		{"session", "--help"}, {"session", "list", "--help"}, {"session", "delete", "--help"}, {"retained", "--help"}, {"retained", "list", "--help"}, {"event-subscription", "create", "--help"}, {"tail", "--help"}, {"bench", "--help"}, {"bench", "pairs", "--help"}, {"bench", "sleeping", "--help"},
		{"keys", "show", "--help"}, {"config", "check", "--help"}, {"ca", "--help"}, {"completion", "bash", "--help"},
	} {
		code, out, errOut := run(args...)
		if code != 0 || len(out) < 80 || errOut != "" {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errOut)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, errOut := run("completion", shell); code != 0 || !strings.Contains(out, "rollcall") {
			t.Errorf("%s: exit %d, %q", shell, code, errOut)
		}
	}
}

// TestUsageErrors: a wrong command line exits with 2 and says what to change.
func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string
	}{
		{"serve extra", "unexpected argument"},
		{"serve --no-such-flag", "no-such-flag"},
		{"session show", "SESSION is missing"},
		{"client create", "NAME is missing"},
		{"session list --connected --gone", "exclude"},
		{"event-subscription create x", "--endpoint is missing"},
		{"event-subscription create x --endpoint http://x --schema y", "neither cloudevents nor eventgrid"},
		{"client create x --attribute y", "KEY=VALUE"},
		{"serve --profile blue", "neither open nor azure"},
		{"serve --mqtt 0.0.0.0:1", "--allow-all"},
		{"serve --no-auth --http 0.0.0.0:0 --allow-all", "access.noAuth"},
		{"serve --anonymous maybe", "none of off, loopback and all"},
		{"serve --cert x", "go together"},
		{"serve --mqtt= --mqtts= --http= --https=", "every listener is turned off"},
		{"serve --config /no/such/file", "no such file"},
	} {
		code, out, errOut := run(strings.Fields(tc.args)...)
		if code != 2 || out != "" || !strings.Contains(errOut, tc.want) {
			t.Errorf("%s: exit %d, %q, %q; want 2 and %q", tc.args, code, out, errOut, tc.want)
		}
	}
}

func TestNoServer(t *testing.T) {
	code, _, errOut := run("session", "list", "--data", t.TempDir())
	if code != 1 || !strings.Contains(errOut, "rollcall serve") {
		t.Errorf("exit %d, %q", code, errOut)
	}
}

func TestConfigCheckPrintsWhatIsInForce(t *testing.T) {
	t.Setenv("ROLLCALL_MQTT_MAX_INFLIGHT", "7")
	code, out, errOut := run("config", "check", "--profile", "azure")
	if code != 0 || !strings.Contains(out, "maxInflight: 7") || !strings.Contains(out, "maxKeepAlive: 1160") || !strings.Contains(out, "responseTimeout: 30s") {
		t.Errorf("exit %d, %s, %s", code, out, errOut)
	}
	if code, out, _ := run("config", "check", "--variables"); code != 0 || !strings.Contains(out, "ROLLCALL_DELIVERY_PROBATION_ENABLED") {
		t.Errorf("exit %d, %s", code, out)
	}
	t.Setenv("ROLLCALL_WEBHOOK_PROXY", "http://user:hunter2@proxy.example:3128")
	if code, out, _ := run("config", "check"); code != 0 || strings.Contains(out, "hunter2") || !strings.Contains(out, "proxy.example:3128") {
		t.Errorf("exit %d, %s", code, out)
	}
	t.Setenv("ROLLCALL_NO_SUCH_THING", "1")
	if code, _, errOut := run("config", "check"); code == 0 || !strings.Contains(errOut, "ROLLCALL_NO_SUCH_THING") {
		t.Errorf("exit %d, %s", code, errOut)
	}
}

func TestEventLine(t *testing.T) {
	e := cloudEvent{Time: event.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)}, Type: "Microsoft.EventGrid.MQTTClientSessionDisconnected", Subject: "clients/a/sessions/s"}
	e.Data.Number, e.Data.Reason = 3, "ConnectionLost"
	if got, want := e.line(), "03:04:05.006  Disconnected     clients/a/sessions/s  #3  ConnectionLost"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestReceive: the printing webhook consents, prints both schemas and fails
// when told to.
func TestReceive(t *testing.T) {
	var out bytes.Buffer
	srv := httptest.NewServer(&printer{out: &out, status: http.StatusServiceUnavailable})
	defer srv.Close()
	do := func(method, body string, header ...string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := do("OPTIONS", "", "WebHook-Request-Origin", "eventgrid.azure.net")
	if res.StatusCode != 200 || res.Header.Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" {
		t.Errorf("handshake: %v", res)
	}
	res = do("POST", `[{"data":{"validationCode":"c0de"}}]`, "aeg-event-type", "SubscriptionValidation")
	if text, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(text), `"validationResponse":"c0de"`) {
		t.Errorf("validation: %s, %v", text, err)
	}
	for _, body := range []string{
		`{"type":"a.MQTTClientSessionConnected","time":"2026-01-02T03:04:05Z","subject":"clients/a","data":{"sequenceNumber":7}}`,
		`[{"eventType":"a.MQTTClientSessionConnected","eventTime":"2026-01-02T03:04:05Z","subject":"clients/b","data":{"sequenceNumber":8}}]`,
	} {
		if res := do("POST", body, "aeg-event-type", "Notification", "aeg-subscription-name", "HOOK"); res.StatusCode != 503 {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	if res := do("POST", "junk"); res.StatusCode != 400 {
		t.Errorf("junk: %d", res.StatusCode)
	}
	if got := out.String(); !strings.Contains(got, "clients/a  #7  HOOK") || !strings.Contains(got, "clients/b  #8  HOOK") {
		t.Errorf("printed %q", got)
	}
}
