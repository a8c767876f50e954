package cli

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"rollcall/internal/app"
)

// The token of the local server is shown to that server only, not to whatever
// --url names.
func TestTokenStaysHome(t *testing.T) {
	t.Setenv("ROLLCALL_TOKEN", "")
	var shown string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`{"namespace":"/subscriptions/x"}`))
	}))
	defer s.Close()
	for _, tc := range []struct {
		name     string
		endpoint string
		want     string
	}{
		{"the local server", s.URL, "Bearer local"},
		{"another server", "http://127.0.0.1:1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			shown = "nothing came"
			data := t.TempDir()
			info := app.ReadyInfo{Endpoints: app.Endpoints{HTTP: []string{tc.endpoint}}, Token: "local", Namespace: "/subscriptions/x"}
			if err := info.WriteInfo(filepath.Join(data, "server.json")); err != nil {
				t.Fatal(err)
			}
			if code, _, errOut := run("status", "--url", s.URL, "--data", data); code != 0 {
				t.Fatalf("exit %d: %s", code, errOut)
			}
			if shown != tc.want {
				t.Errorf("authorization is %q, want %q", shown, tc.want)
			}
		})
	}
}
