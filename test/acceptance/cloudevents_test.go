package acceptance

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/client"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/servertest"
)

// A receiver made with the CloudEvents SDK consents by itself, by a POST to the
// validation URL, and takes events; the rate that it allows there is kept to.
func TestCloudEventsReceiverConsentsByItself(t *testing.T) {
	s := servertest.Start(t, func(c *config.Config) { c.Listen.HTTPS = nil })
	p, err := cehttp.New(cehttp.WithDefaultOptionsHandlerFunc([]string{http.MethodPost, http.MethodOptions}, 6000, []string{"eventgrid.azure.net"}, true))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan cloudevents.Event, 100)
	h, err := client.NewHTTPReceiveHandler(context.Background(), p, func(e cloudevents.Event) { got <- e })
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(h)
	defer receiver.Close()
	s.Subscribe("sdk", receiver.URL, nil)

	s.Dial("tcp", packet.V5, "device").Close()
	types := map[string]int{}
	for range 2 {
		select {
		case e := <-got:
			types[e.Type()]++
		case <-time.After(servertest.Patience):
			t.Fatalf("no event comes after %v", types)
		}
	}
	if types["Microsoft.EventGrid.MQTTClientSessionConnected"] != 1 || types["Microsoft.EventGrid.MQTTClientSessionDisconnected"] != 1 {
		t.Errorf("got %v", types)
	}
	var state struct{ Narration []struct{ Text string } }
	if err := json.Unmarshal(s.Must(http.MethodGet, "/rollcall/v1/eventSubscriptions/sdk", nil), &state); err != nil {
		t.Fatal(err)
	}
	rate := false
	for _, step := range state.Narration {
		rate = rate || step.Text == "The endpoint allows 6000 requests per minute."
	}
	if !rate {
		t.Errorf("the rate is not in %+v", state.Narration)
	}
}
