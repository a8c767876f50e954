// Package sysevent turns facts into the documented system events. It is the
// only place that knows their JSON: members, order, names and time digits. It
// does no I/O.
package sysevent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"rollcall/internal/event"
)

// The event types of a namespace's MQTT clients.
const (
	TypeSessionConnected    = "Microsoft.EventGrid.MQTTClientSessionConnected"
	TypeSessionDisconnected = "Microsoft.EventGrid.MQTTClientSessionDisconnected"
	TypeClientUpserted      = "Microsoft.EventGrid.MQTTClientCreatedOrUpdated"
	TypeClientDeleted       = "Microsoft.EventGrid.MQTTClientDeleted"
)

// NamespaceTypes are the event types that a namespace emits.
func NamespaceTypes() []string {
	return []string{TypeSessionConnected, TypeSessionDisconnected, TypeClientUpserted, TypeClientDeleted}
}

// dataVersion of all system events here, in the Event Grid schema.
const dataVersion = "1"

// Namespace is what emits the events.
type Namespace struct {
	Name string // "default"
	ID   string // resource id: /subscriptions/…/namespaces/default
}

// Stamp is what is fixed when a fact is committed.
type Stamp struct {
	ID   string
	Time time.Time
}

// Session names the session that a transition is of.
type Session struct {
	AuthenticationName string
	Name               string
	Number             uint64
}

// SessionConnected is the event of a Connected transition.
func SessionConnected(ns Namespace, at Stamp, s Session) *event.Event {
	return sessionEvent(ns, at, TypeSessionConnected, s, append(sessionData(ns, s), '}'))
}

// SessionDisconnected is the event of a Disconnected transition; reason is one
// of the documented disconnection reasons.
func SessionDisconnected(ns Namespace, at Stamp, s Session, reason string) *event.Event {
	data := append(sessionData(ns, s), `,"disconnectionReason":`...)
	data = append(event.AppendString(data, reason), '}')
	return sessionEvent(ns, at, TypeSessionDisconnected, s, data)
}

func sessionEvent(ns Namespace, at Stamp, typ string, s Session, data []byte) *event.Event {
	return &event.Event{
		ID: at.ID, Time: at.Time, Type: typ, Source: ns.ID, DataVersion: dataVersion, Data: data,
		Subject: "clients/" + s.AuthenticationName + "/sessions/" + s.Name,
	}
}

func sessionData(ns Namespace, s Session) []byte {
	data := append(make([]byte, 0, 192), `{"namespaceName":`...)
	data = event.AppendString(data, ns.Name)
	data = append(data, `,"clientAuthenticationName":`...)
	data = event.AppendString(data, s.AuthenticationName)
	data = append(data, `,"clientSessionName":`...)
	data = event.AppendString(data, s.Name)
	data = append(data, `,"sequenceNumber":`...)
	return strconv.AppendUint(data, s.Number, 10)
}

// Client is a client resource as it stands after a change.
type Client struct {
	Name               string
	AuthenticationName string
	State              string // "Enabled" or "Disabled"
	CreatedOn          time.Time
	UpdatedOn          time.Time
	Attributes         map[string]any // strings, integers, arrays of strings
}

// ClientCreatedOrUpdated is the event of a client resource's creation or
// change.
func ClientCreatedOrUpdated(ns Namespace, at Stamp, c Client) (*event.Event, error) {
	data := append(make([]byte, 0, 384), `{"createdOn":"`...)
	data = event.AppendTime(data, c.CreatedOn)
	data = append(data, `","updatedOn":"`...)
	data = event.AppendTime(data, c.UpdatedOn)
	data = append(data, `","namespaceName":`...)
	data = event.AppendString(data, ns.Name)
	data = append(data, `,"clientName":`...)
	data = event.AppendString(data, c.Name)
	data = append(data, `,"clientAuthenticationName":`...)
	data = event.AppendString(data, c.AuthenticationName)
	data = append(data, `,"state":`...)
	data = event.AppendString(data, c.State)
	data = append(data, `,"attributes":{`...)
	for i, key := range slices.Sorted(maps.Keys(c.Attributes)) {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(event.AppendString(data, key), ':')
		value, err := appendValue(data, c.Attributes[key])
		if err != nil {
			return nil, fmt.Errorf("attribute %q of client %q: %w", key, c.Name, err)
		}
		data = value
	}
	return clientEvent(ns, at, TypeClientUpserted, c.Name, append(data, "}}"...)), nil
}

func appendValue(dst []byte, v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return event.AppendString(dst, s), nil
	}
	value, err := event.Marshal(v)
	return append(dst, value...), err
}

// ClientDeleted is the event of a client resource's deletion.
func ClientDeleted(ns Namespace, at Stamp, name, authenticationName string) *event.Event {
	data := append(make([]byte, 0, 128), `{"namespaceName":`...)
	data = event.AppendString(data, ns.Name)
	data = append(data, `,"clientName":`...)
	data = event.AppendString(data, name)
	data = append(data, `,"clientAuthenticationName":`...)
	data = event.AppendString(data, authenticationName)
	return clientEvent(ns, at, TypeClientDeleted, name, append(data, '}'))
}

func clientEvent(ns Namespace, at Stamp, typ, name string, data []byte) *event.Event {
	return &event.Event{
		ID: at.ID, Time: at.Time, Type: typ, Source: ns.ID, DataVersion: dataVersion, Data: data,
		Subject: "clients/" + name,
	}
}
