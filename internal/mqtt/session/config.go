package session

import (
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/topic"
)

// Config is what the server offers to a session and where its limits are. It
// is shared by sessions and not changed.
type Config struct {
	// ConnectTimeout is for the first packet, and for each answer of the client
	// in enhanced authentication until it is connected.
	ConnectTimeout time.Duration

	// BridgeStates opens $SYS/broker/connection/ to clients: bridges publish
	// their state there, and are lost without it.
	BridgeStates bool

	MaximumQoS              packet.QoS // 0 to 2
	RetainAvailable         bool
	SharedAvailable         bool     // shared subscriptions
	SubscriptionIDAvailable bool     // subscription identifiers
	ReceiveMaximum          uint16   // unacknowledged QoS 1 and 2 messages from the client, 1 to 65,535
	MaximumPacketSize       uint32   // bytes, both ways; 0: the protocol's maximum
	TopicAliasMaximum       uint16   // aliases that the client may set
	ServerAliasMaximum      uint16   // aliases that are set for the client, at most as many as it accepts; 0: none
	MaximumKeepAlive        uint16   // seconds; 0: whatever the client asks for, 0 included
	MaxSessionExpiry        uint32   // seconds that a session is kept at most; 0: no cap, NeverExpires included
	MaxWillDelay            uint32   // seconds; 0: no cap
	AuthMethods             []string // of enhanced authentication; empty: not available

	Topics           topic.Limits
	MaxClientID      int // bytes of a client id
	MaxFilters       int // topic filters in one SUBSCRIBE; 0: no bound
	MaxSubscriptions int // of a session; 0: no bound
	// MaxSubscriptionBytes bounds the memory that a session's subscriptions take,
	// as topic.Weight estimates it; 0: no bound.
	MaxSubscriptionBytes int
	MaxFieldBytes        int  // response topic, content type, correlation data each; 0: no bound
	MaxUserBytes         int  // all user properties of a message; 0: no bound
	RefuseUserProps      bool // user properties on anything but PUBLISH and Will
	FatalNegativeAck     bool // a PUBACK or PUBREC with a failure code ends the connection
	ExpiryZeroNever      bool // Message Expiry Interval 0 means that it never expires
	CheckPayload         bool // payloads that are said to be UTF-8 are checked

	MaxInflight uint16 // unacknowledged QoS 1 and 2 messages to the client, 1 to 65,535
	// QueueMessages and QueueBytes (of their content) are how much may wait in
	// a session that is not stored before it overflows; at most 2 GiB.
	QueueMessages int
	QueueBytes    int
	// NewClientID makes the client id for a client that sends none.
	NewClientID func() string
}

// expiry is the effective session expiry for what CONNECT asks.
func (c *Config) expiry(p *packet.Connect) uint32 {
	switch {
	case p.Version == packet.V5:
		return c.capExpiry(p.SessionExpiryInterval)
	case p.CleanStart:
		return 0
	}
	return c.capExpiry(NeverExpires)
}

func (c *Config) capExpiry(seconds uint32) uint32 {
	if c.MaxSessionExpiry == 0 {
		return seconds
	}
	return min(seconds, c.MaxSessionExpiry)
}
