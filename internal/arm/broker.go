package arm

import (
	"context"
	"time"

	"rollcall/internal/event"
)

// Broker is what the control plane needs of the MQTT broker, for sessions of the
// namespace. Its methods may be called concurrently.
type Broker interface {
	// EndSession ends a session's connection and reports whether there was one.
	EndSession(session, why string) bool
	// DeleteSession ends a session with what is stored of it, and reports whether
	// there was one.
	DeleteSession(ctx context.Context, session, why string) (bool, error)
	// ViewSession returns what there is of a session, or false if it is neither
	// connected nor stored.
	ViewSession(session string) (SessionView, bool, error)
	// Subscriptions returns those of a session by filter, or false as before.
	Subscriptions(session string) ([]Subscription, bool)
	// ListRetained returns retained messages by topic.
	ListRetained(ctx context.Context, q RetainedQuery) (found []Retained, more bool, err error)
	// RetainedMessage returns what is retained for a topic, or false.
	RetainedMessage(topic string) (RetainedMessage, bool, error)
	// DeleteRetained removes what is retained for a topic, durably, and reports
	// whether there was anything.
	DeleteRetained(ctx context.Context, topic string) (bool, error)
}

// SessionView is what the broker has of a session.
type SessionView struct {
	Subscriptions int
	Queue         Queue
	Stored        *StoredSession // nil: it ends with its connection
}

// StoredSession is what is kept of a session without a connection.
type StoredSession struct {
	Owner     string
	Expiry    time.Duration // how long it is kept without a connection; negative: for ever
	ExpiresAt time.Time     // zero: not as things stand
}

// Queue is what waits for a client.
type Queue struct {
	Messages int    `json:"messages"` // unacknowledged ones included
	Bytes    int64  `json:"bytes"`
	Dropped  uint64 `json:"dropped"` // messages since the start, because it was full
}

// Subscription is an MQTT subscription of a session.
type Subscription struct {
	Filter            string `json:"filter"`
	QoS               uint8  `json:"qos"`
	NoLocal           bool   `json:"noLocal,omitempty"`
	RetainAsPublished bool   `json:"retainAsPublished,omitempty"`
	Identifier        uint32 `json:"identifier,omitempty"`
}

// RetainedQuery is a page of retained messages.
type RetainedQuery struct {
	Filter string // MQTT topic filter, legal and not shared
	After  string // only topics after this one
	Limit  int
}

// Retained is a retained message in a list.
type Retained struct {
	Topic   string      `json:"topic"`
	Bytes   int         `json:"bytes"` // of topic and payload
	Expires *event.Time `json:"expiresAt,omitempty"`
}

// RetainedMessage is a retained message.
type RetainedMessage struct {
	Retained
	QoS         uint8      `json:"qos"`
	From        string     `json:"from"` // session that published it
	Received    event.Time `json:"receivedAt"`
	ContentType string     `json:"contentType,omitempty"`
	Payload     []byte     `json:"payload"` // Base64 in JSON
}
