package conformance

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
)

// driver is a way to reach a server.
type driver struct {
	name      string
	transport string // for servertest
	loops     int    // mqtt.loops
	mark      string // one letter, part of what is unique
	target    string
	tls       *tls.Config
	accept    string // the properties of CONNACK where the client asks for nothing: $ACCEPT
	other     string // the same where its Keep Alive holds: $OTHER
}

func (d *driver) open(t *testing.T) (*peer.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	return peer.Open(ctx, d.target, packet.V5, d.tls)
}

// What CONNACK says with the settings below: Receive Maximum 10, Retain
// Available, Maximum Packet Size 100,000, Topic Alias Maximum 10, Wildcard,
// Subscription Identifiers and Shared Subscriptions Available.
const (
	acceptOpen  = "21 000A 25 01 27 000186A0 22 000A 28 01 29 01 2A 01"
	acceptTight = "21 0002 25 01 27 000186A0 28 01 29 01 2A 01 13 0001"
	acceptAzure = otherAzure + " 13 0488"
	otherAzure  = "21 03E8 24 01 25 01 27 00080000 22 000A 28 01 29 00 2A 00"
)

func openLimits(c *config.Config) {
	c.MQTT.ReceiveMaximum, c.MQTT.MaxPacketSize = 10, 100_000
}

// servers starts what the groups need and returns their drivers.
func servers(t *testing.T) map[string][]*driver {
	loops := servertest.Start(t, openLimits)
	plain := servertest.Start(t, func(c *config.Config) {
		openLimits(c)
		c.MQTT.Loops = -1
	})
	alone := servertest.Start(t, openLimits)
	tight := servertest.Start(t, func(c *config.Config) {
		openLimits(c)
		c.MQTT.ReceiveMaximum, c.MQTT.TopicAliases, c.MQTT.ServerAliases, c.MQTT.MaxKeepAlive = 2, 0, 0, 1
		c.MQTT.MaxSessionExpiry, c.MQTT.MaxWillDelay = 2*time.Second, time.Second
		c.MQTT.MaxClientID, c.MQTT.MaxTopicBytes, c.MQTT.MaxTopicLevels, c.MQTT.MaxSubscriptions = 23, 20, 4, 2
		c.MQTT.QueueMessages, c.MQTT.FullQueue = 3, "endSession"
	})
	azure := servertest.Start(t, func(c *config.Config) {
		a := config.Default(config.Azure)
		a.Data, a.Storage, a.Listen = c.Data, c.Storage, c.Listen
		a.Listen.MQTT = nil
		*c = a
	})
	trust := loops.TLS()
	return map[string][]*driver{
		"open": {
			{"tcp", "tcp", 0, "a", loops.Target("tcp"), nil, acceptOpen, acceptOpen},
			{"tls", "tls", 0, "b", loops.Target("tls"), trust, acceptOpen, acceptOpen},
			{"websocket", "ws", 0, "c", loops.Target("ws"), nil, acceptOpen, acceptOpen},
			{"goroutines", "tcp", -1, "d", plain.Target("tcp"), nil, acceptOpen, acceptOpen},
		},
		"websocket": {{"websocket", "ws", 0, "e", loops.Target("ws"), nil, acceptOpen, acceptOpen}},
		"alone":     {{"tcp", "tcp", 0, "f", alone.Target("tcp"), nil, acceptOpen, acceptOpen}},
		"tight":     {{"tcp", "tcp", 0, "g", tight.Target("tcp"), nil, acceptTight, ""}},
		"azure":     {{"tls", "tls", 0, "h", azure.Target("tls"), azure.TLS(), acceptAzure, otherAzure}},
	}
}
