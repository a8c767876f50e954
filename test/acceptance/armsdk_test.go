package acceptance

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"rollcall/internal/audit"
	"rollcall/internal/servertest"
)

// TestOfficialSDKGetThenPut: npm @azure/arm-eventgrid gets an event
// subscription and puts it back, and nothing changes: no batching, the
// endpoint's query and the secret header are kept, the endpoint is not asked
// again.
func TestOfficialSDKGetThenPut(t *testing.T) {
	s, rc := servertest.Start(t, nil), servertest.NewReceiver(t)
	const bearer = "Bearer of-the-receiver"
	endpoint := rc.URL + "?code=a%26b&x=1"
	s.Subscribe("hook", endpoint, map[string]any{"destination": map[string]any{"deliveryAttributeMappings": []map[string]any{
		{"name": "Authorization", "type": "Static", "properties": map[string]any{"value": bearer, "isSecret": true}},
	}}})
	asked := rc.Asked()
	if asked == 0 {
		t.Fatal("the endpoint was not asked for its consent")
	}

	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "getthenput.js", s.Info.HTTPS[0], s.Info.Token, s.Info.Namespace[1:], "hook")
	cmd.Dir, cmd.Env = "../clients", append(os.Environ(), "NODE_EXTRA_CA_CERTS="+s.Info.CA)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var got struct {
		Before, Put, After map[string]any
		EndpointURL        string
		Attributes         []struct{ Name, Value string }
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	destination, _ := got.After["destination"].(map[string]any)
	if n := destination["maxEventsPerBatch"]; n != 1.0 {
		t.Errorf("maxEventsPerBatch is %v, want 1", n)
	}
	if state := got.Put["provisioningState"]; state != "Succeeded" {
		t.Errorf("the PUT ended as %v", state)
	}
	for _, r := range []map[string]any{got.Before, got.After} {
		delete(r, "systemData") // says when it was written
	}
	if !reflect.DeepEqual(got.Before, got.After) {
		t.Errorf("before\n%v\nafter\n%v", got.Before, got.After)
	}
	if got.EndpointURL != endpoint {
		t.Errorf("the endpoint is %s, want %s", got.EndpointURL, endpoint)
	}
	if len(got.Attributes) != 1 || got.Attributes[0].Name != "Authorization" || got.Attributes[0].Value != bearer {
		t.Errorf("headers %v", got.Attributes)
	}
	if n := rc.Asked(); n != asked {
		t.Errorf("the endpoint was asked %d times, want %d", n, asked)
	}

	if err := s.Dial("tcp", 5, "s").Disconnect(); err != nil {
		t.Fatal(err)
	}
	rc.Wait(t, func(ds []audit.Delivery) bool { return len(ds) >= 2 })
	for _, r := range rc.Requests() {
		if r.Body[0] != '{' || r.Header.Get("Authorization") != bearer {
			t.Errorf("delivered %s with the headers %v", r.Body, r.Header)
		}
	}
}
