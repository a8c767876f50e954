package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"rollcall/internal/servertest"
)

// Who creates a subscription again whose endpoint did not consent is told what
// to do, and that works: the rest of the subscription stays.
func TestCreateOfAFailedSubscriptionSaysWhatToDo(t *testing.T) {
	s := servertest.Start(t, nil)
	where := []string{"--url", s.Info.HTTP[0], "--token", s.Token()}
	var consents atomic.Bool
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !consents.Load() {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		w.Header().Set("WebHook-Allowed-Origin", "*")
	}))
	defer hook.Close()
	create := append([]string{"event-subscription", "create", "hook", "--endpoint", hook.URL, "--label", "kept"}, where...)
	if code, out, errOut := run(create...); code == 0 {
		t.Fatalf("an endpoint that answers 501 consented: %s%s", out, errOut)
	}
	code, _, errOut := run(create...)
	for _, want := range []string{"has not consented", "501 Not Implemented", "rollcall event-subscription update hook --endpoint URL"} {
		if code == 0 || !strings.Contains(errOut, want) {
			t.Errorf("exit %d: %q does not say %q", code, errOut, want)
		}
	}
	consents.Store(true)
	if code, out, errOut := run(append([]string{"event-subscription", "update", "hook", "--endpoint", hook.URL}, where...)...); code != 0 {
		t.Errorf("what is advised ends with %d: %s%s", code, out, errOut)
	}
	if text := string(s.Must(http.MethodGet, s.ARM("/providers/Microsoft.EventGrid/eventSubscriptions/hook"), nil)); !strings.Contains(text, "kept") {
		t.Errorf("a label was lost: %s", text)
	}
	if code, _, errOut := run(create...); code == 0 || !strings.Contains(errOut, "exists; change it") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
