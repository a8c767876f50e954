package acceptance

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"rollcall/internal/audit"
	"rollcall/internal/config"
	"rollcall/internal/servertest"
)

// TestAzureCoalescesClientEvents: a create and two updates in short order are
// one event with the final state; a create and a delete are one Deleted.
func TestAzureCoalescesClientEvents(t *testing.T) {
	s := servertest.Start(t, func(c *config.Config) {
		a := config.Default(config.Azure)
		a.Data, a.Storage, a.Listen = c.Data, c.Storage, c.Listen
		a.Listen.MQTT = nil
		*c = a
	})
	rc := servertest.NewReceiver(t)
	s.Subscribe("all", rc.URL, nil)
	for floor := range 3 {
		s.PutClient("steady", map[string]any{"attributes": map[string]any{"floor": floor}})
	}
	s.PutClient("fleeting", map[string]any{})
	s.Must(http.MethodDelete, s.ARM("/clients/fleeting"), nil)
	rc.Wait(t, func(ds []audit.Delivery) bool { return len(servertest.Events(ds, "", "")) >= 2 })
	for _, d := range rc.Deliveries() {
		var e struct {
			Type, Subject string
			Data          struct{ Attributes map[string]any }
		}
		if err := json.Unmarshal(d.Event, &e); err != nil {
			t.Fatal(err)
		}
		switch e.Subject {
		case "clients/steady":
			if !strings.HasSuffix(e.Type, "MQTTClientCreatedOrUpdated") || e.Data.Attributes["floor"] != 2.0 {
				t.Errorf("%s", d.Event)
			}
		case "clients/fleeting":
			if !strings.HasSuffix(e.Type, "MQTTClientDeleted") {
				t.Errorf("%s", d.Event)
			}
		default:
			t.Errorf("unexpected: %s", d.Event)
		}
	}
	if n := len(rc.Deliveries()); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}
