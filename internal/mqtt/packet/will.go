package packet

// Will is the message that the server publishes when the connection ends
// otherwise than by a normal DISCONNECT. The byte slices alias the frame of
// the CONNECT it came in.
type Will struct {
	Topic   []byte
	Payload []byte
	QoS     QoS
	Retain  bool

	// MQTT 5 only.

	DelayInterval          uint32           // seconds
	PayloadFormatIndicator Optional[uint8]  // 0 unspecified bytes, 1 UTF-8
	MessageExpiryInterval  Optional[uint32] // seconds from publication
	ContentType            []byte           // nil is absent
	ResponseTopic          []byte           // nil is absent
	CorrelationData        []byte           // nil is absent
	UserProperties         []UserProperty
}

const willProps = 1<<propWillDelayInterval | 1<<propPayloadFormatIndicator | 1<<propMessageExpiryInterval |
	1<<propContentType | 1<<propResponseTopic | 1<<propCorrelationData | 1<<propUserProperty

func decodeWill(r *reader, v Version, flags byte) *Will {
	w := &Will{QoS: QoS(flags & connectWillQoS >> 3), Retain: flags&connectRetain != 0}
	if v == V5 {
		w.properties(r)
	}
	w.Topic = r.name() // [MQTT-3.1.3-11]
	if r.err == nil {
		if e := checkTopicName(w.Topic, v); e != nil {
			r.fail(e)
		}
	}
	w.Payload = r.binary()
	if len(w.Payload) == 0 {
		w.Payload = nil
	}
	return w
}

func (w *Will) properties(r *reader) {
	b := r.block()
	for {
		id, ok := b.next(willProps, 1<<propUserProperty)
		if !ok {
			break
		}
		switch id {
		case propWillDelayInterval:
			w.DelayInterval = b.uint32()
		case propPayloadFormatIndicator:
			w.PayloadFormatIndicator = b.payloadFormat()
		case propMessageExpiryInterval:
			w.MessageExpiryInterval = Some(b.uint32())
		case propContentType:
			w.ContentType = b.text()
		case propResponseTopic:
			w.ResponseTopic = b.responseTopic()
		case propCorrelationData:
			w.CorrelationData = b.binary()
		case propUserProperty:
			w.UserProperties = b.userProperty(w.UserProperties)
		}
	}
	r.leave(&b)
}

func (w *Will) append(out *writer, v Version) {
	if e := checkTopicName(w.Topic, v); e != nil {
		out.fail(e)
	}
	if v == V5 {
		at := len(out.b)
		out.propUint32(propWillDelayInterval, w.DelayInterval)
		if w.PayloadFormatIndicator.Set {
			if w.PayloadFormatIndicator.Value > 1 {
				out.fail(protocolError("3.1.3.2.3", "the Payload Format Indicator is above 1"))
			}
			out.byte(propPayloadFormatIndicator)
			out.byte(w.PayloadFormatIndicator.Value)
		}
		out.propOptional32(propMessageExpiryInterval, w.MessageExpiryInterval)
		out.propBinary(propContentType, w.ContentType)
		if hasWildcard(w.ResponseTopic) {
			out.fail(protocolError("MQTT-3.3.2-14", "the Response Topic contains a wildcard"))
		}
		out.propBinary(propResponseTopic, w.ResponseTopic)
		out.propBinary(propCorrelationData, w.CorrelationData)
		out.userProperties(w.UserProperties)
		out.closeBlock(at)
	}
	out.binary(w.Topic)
	out.binary(w.Payload)
}

// Publish returns the PUBLISH that the Will stands for, without a Packet
// Identifier. It shares the Will's memory.
func (w *Will) Publish() Publish {
	return Publish{
		QoS: w.QoS, Retain: w.Retain, Topic: w.Topic, Payload: w.Payload,
		PayloadFormatIndicator: w.PayloadFormatIndicator,
		MessageExpiryInterval:  w.MessageExpiryInterval,
		ContentType:            w.ContentType,
		ResponseTopic:          w.ResponseTopic,
		CorrelationData:        w.CorrelationData,
		UserProperties:         w.UserProperties,
	}
}

// Clone returns a copy that shares no memory with w or the frame.
func (w *Will) Clone() *Will {
	m := w.Publish()
	p := m.Clone()
	return &Will{
		Topic: p.Topic, Payload: p.Payload, QoS: w.QoS, Retain: w.Retain,
		DelayInterval:          w.DelayInterval,
		PayloadFormatIndicator: w.PayloadFormatIndicator,
		MessageExpiryInterval:  w.MessageExpiryInterval,
		ContentType:            p.ContentType,
		ResponseTopic:          p.ResponseTopic,
		CorrelationData:        p.CorrelationData,
		UserProperties:         p.UserProperties,
	}
}
