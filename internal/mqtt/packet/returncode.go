package packet

// NoReturnCode is what [ConnackReturnCode] gives for a reason that no return
// code of MQTT 3.1.1 expresses: the connection is closed without a CONNACK
// (3.1.1, [MQTT-3.2.2-6]).
const NoReturnCode byte = 0xFF

// The CONNACK return codes of MQTT 3.1.1, table 3.1.
const (
	returnAccepted            = 0
	returnProtocolVersion     = 1
	returnIdentifierRejected  = 2
	returnServerUnavailable   = 3
	returnBadUserNamePassword = 4
	returnNotAuthorized       = 5
)

// ConnackReturnCode translates the reason code of a CONNACK into the return
// code that a 3.1.1 client gets, or [NoReturnCode].
func ConnackReturnCode(c ReasonCode) byte {
	switch c {
	case Success:
		return returnAccepted
	case UnsupportedProtocolVersion:
		return returnProtocolVersion
	case ClientIdentifierNotValid:
		return returnIdentifierRejected
	case UnspecifiedError, ImplementationSpecificError, ServerUnavailable, ServerBusy, ServerShuttingDown,
		QuotaExceeded, ConnectionRateExceeded, UseAnotherServer, ServerMoved:
		return returnServerUnavailable
	case BadUserNameOrPassword:
		return returnBadUserNamePassword
	case NotAuthorized, Banned, BadAuthenticationMethod, TopicNameInvalid, PayloadFormatInvalid, RetainNotSupported,
		QoSNotSupported:
		return returnNotAuthorized
	}
	return NoReturnCode
}

// connackReason is the way back, for what a 3.1.1 server sent. It returns
// false for a return code that is reserved.
func connackReason(code byte) (ReasonCode, bool) {
	switch code {
	case returnAccepted:
		return Success, true
	case returnProtocolVersion:
		return UnsupportedProtocolVersion, true
	case returnIdentifierRejected:
		return ClientIdentifierNotValid, true
	case returnServerUnavailable:
		return ServerUnavailable, true
	case returnBadUserNamePassword:
		return BadUserNameOrPassword, true
	case returnNotAuthorized:
		return NotAuthorized, true
	}
	return 0, false
}

// SubackReturnCode translates one reason code of a SUBACK into the return
// code of MQTT 3.1.1: the granted QoS, or 0x80 for every failure.
func SubackReturnCode(c ReasonCode) byte {
	if c.Failed() {
		return byte(UnspecifiedError)
	}
	return byte(c)
}
