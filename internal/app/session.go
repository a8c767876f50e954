package app

import (
	"time"

	"rollcall/internal/config"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/topic"
)

// sessionConfig is what the broker offers. Under azure come the refusals that
// the service documents.
func sessionConfig(c config.Config) session.Config {
	m := c.MQTT
	s := session.Config{
		ConnectTimeout: m.ConnectTimeout, MaximumQoS: packet.QoS2,
		RetainAvailable: true, SharedAvailable: true, SubscriptionIDAvailable: true,
		ServerAliasMaximum: uint16(m.ServerAliases), MaxSessionExpiry: uint32(m.MaxSessionExpiry / time.Second), MaxWillDelay: uint32(m.MaxWillDelay / time.Second),
		ReceiveMaximum: uint16(m.ReceiveMaximum), MaximumPacketSize: uint32(m.MaxPacketSize),
		TopicAliasMaximum: uint16(m.TopicAliases), MaximumKeepAlive: uint16(m.MaxKeepAlive),
		Topics:      topic.Limits{MaxBytes: m.MaxTopicBytes, MaxLevels: m.MaxTopicLevels},
		MaxClientID: m.MaxClientID, MaxSubscriptions: m.MaxSubscriptions, MaxSubscriptionBytes: m.MaxSubscriptionBytes, CheckPayload: true,
		BridgeStates: true,
		MaxInflight:  uint16(m.MaxInflight), QueueMessages: m.QueueMessages, QueueBytes: m.QueueBytes,
	}
	if c.Profile == config.Azure {
		s.MaximumQoS = packet.QoS1
		s.BridgeStates = false
		s.SharedAvailable, s.SubscriptionIDAvailable = false, false
		s.MaxFilters = 10
		s.MaxFieldBytes = 256
		s.MaxUserBytes = 32 << 10
		s.RefuseUserProps = true
		s.FatalNegativeAck = true
		s.ExpiryZeroNever = true
	}
	return s
}

// fullQueue is the policy that a setting, which has been validated, names.
func fullQueue(name string) broker.FullQueue {
	switch name {
	case "dropOldest":
		return broker.DropOldest
	case "dropNewest":
		return broker.DropNewest
	}
	return broker.EndSession
}
