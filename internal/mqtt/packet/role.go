package packet

import "errors"

// CheckFromClient returns an [*Error] if no client may send p, whatever came
// before it: a packet of the server's, or one with contents that are only the
// server's. p has been decoded.
func CheckFromClient(p Packet) error {
	switch p := p.(type) {
	case *Connack, *Suback, *Unsuback, *Pingresp:
		return protocolError("2.1.2", "only a server sends packets of the type")
	case *Publish:
		if len(p.SubscriptionIdentifiers) > 0 {
			return protocolError("MQTT-3.3.4-6", "a client sent a Subscription Identifier")
		}
	case *Disconnect:
		if p.ServerReference != "" {
			return protocolError("3.14.2.2.5", "a client sent a Server Reference")
		}
		if !fromClient(p.ReasonCode) {
			return protocolError("MQTT-3.14.2-1", "only a server sends the reason code")
		}
	case *Auth:
		if p.ReasonCode == Success {
			return protocolError("MQTT-3.15.2-1", "only a server sends the reason code")
		}
	}
	return nil
}

// BlameClient returns err, which is what the codec said of a packet from a
// client that begins with the byte first, as an [*Error]. Whatever else is
// wrong with a packet that only a server sends, that it came is a Protocol
// Error.
func BlameClient(first byte, err error) *Error {
	switch TypeOf(first) {
	case CONNACK, SUBACK, UNSUBACK, PINGRESP:
		return protocolError("2.1.2", "only a server sends packets of the type")
	}
	var e *Error
	if !errors.As(err, &e) {
		return malformed("2.1.4", err.Error())
	}
	return e
}

// fromClient reports whether table 3-10 lets a client send a DISCONNECT with
// the code c.
func fromClient(c ReasonCode) bool {
	switch c {
	case NormalDisconnection, DisconnectWithWillMessage, UnspecifiedError, MalformedPacket, ProtocolError,
		ImplementationSpecificError, BadAuthenticationMethod, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid,
		PacketTooLarge, MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid:
		return true
	}
	return false
}

// CheckFromServer returns an [*Error] if no server may send p, whatever came
// before it. p has been decoded.
func CheckFromServer(p Packet) error {
	switch p := p.(type) {
	case *Connect, *Subscribe, *Unsubscribe, *Pingreq:
		return protocolError("2.1.2", "only a client sends packets of the type")
	case *Disconnect:
		if p.SessionExpiryInterval.Set {
			return protocolError("MQTT-3.14.2-2", "a server sent a Session Expiry Interval")
		}
		if p.ReasonCode == DisconnectWithWillMessage {
			return protocolError("MQTT-3.14.2-1", "only a client sends the reason code")
		}
	case *Auth:
		if p.ReasonCode == ReAuthenticate {
			return protocolError("MQTT-3.15.2-1", "only a client sends the reason code")
		}
	}
	return nil
}
