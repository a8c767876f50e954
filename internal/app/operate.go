package app

import (
	"context"
	"errors"
	"time"

	"rollcall/internal/arm"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/mqtt/broker"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
)

// deletePatience is how long a deletion is waited for.
const deletePatience = 10 * time.Second

// operator is the broker as the control plane wants it: of one namespace.
type operator struct {
	broker *broker.Broker
	stored *stored.Store
	realm  string
}

// EndSession implements arm.Broker.
func (o operator) EndSession(name, why string) bool { return o.broker.End(o.realm, name, why) }

// DeleteSession implements arm.Broker.
func (o operator) DeleteSession(ctx context.Context, name, why string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, deletePatience)
	defer cancel()
	existed, err := o.broker.Delete(ctx, o.realm, name, why)
	if errors.Is(err, broker.ErrStays) || errors.Is(err, context.DeadlineExceeded) {
		err = fault.New(fault.Unavailable, "The session has ended, but that could not be stored yet. It is tried again; look again later.")
	}
	return existed, err
}

// ViewSession implements arm.Broker.
func (o operator) ViewSession(name string) (arm.SessionView, bool, error) {
	v, ok, err := o.broker.View(o.realm, name)
	if !ok || err != nil {
		return arm.SessionView{}, false, err
	}
	out := arm.SessionView{Subscriptions: v.Subscriptions, Queue: arm.Queue{Messages: v.Queue.Messages, Bytes: v.Queue.Bytes, Dropped: v.Queue.Dropped}}
	if v.Stored {
		out.Stored = &arm.StoredSession{Owner: v.Owner, Expiry: time.Duration(v.Expiry) * time.Second, ExpiresAt: v.ExpiresAt}
		if v.Expiry == stored.NeverExpires {
			out.Stored.Expiry = -1
		}
	}
	return out, true, nil
}

// Subscriptions implements arm.Broker.
func (o operator) Subscriptions(name string) ([]arm.Subscription, bool) {
	subs, ok := o.broker.Subscriptions(o.realm, name)
	out := make([]arm.Subscription, len(subs))
	for i := range subs {
		s := &subs[i]
		out[i] = arm.Subscription{Filter: s.Filter, QoS: uint8(s.QoS), NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, Identifier: s.ID}
	}
	return out, ok
}

// ListRetained implements arm.Broker.
func (o operator) ListRetained(ctx context.Context, q arm.RetainedQuery) ([]arm.Retained, bool, error) {
	if _, _, shared, err := topic.ParseShared(q.Filter); shared || err != nil {
		return nil, false, fault.At("filter", "'%.256s' is of a shared subscription; name the topics, as in fleet/#.", q.Filter)
	}
	if err := topic.ValidateFilter(q.Filter, topic.Limits{}); err != nil {
		return nil, false, fault.At("filter", "'%.256s' is not a topic filter: %v.", q.Filter, err)
	}
	found, more, err := o.stored.ListRetained(ctx, o.realm, q.Filter, q.After, q.Limit)
	out := make([]arm.Retained, len(found))
	for i, r := range found {
		out[i] = arm.Retained{Topic: r.Topic, Bytes: r.Bytes, Expires: moment(r.Expires)}
	}
	return out, more, err
}

func moment(t time.Time) *event.Time {
	if t.IsZero() {
		return nil
	}
	return &event.Time{Time: t}
}

// RetainedMessage implements arm.Broker.
func (o operator) RetainedMessage(name string) (arm.RetainedMessage, bool, error) {
	m, err := o.stored.RetainedMessage(o.realm, name)
	if m == nil || err != nil {
		return arm.RetainedMessage{}, false, err
	}
	return arm.RetainedMessage{
		Retained: arm.Retained{Topic: name, Bytes: len(m.Topic) + len(m.Payload), Expires: moment(m.Expires())},
		QoS:      uint8(m.QoS), From: m.From, Received: event.Time{Time: m.Received}, ContentType: string(m.ContentType), Payload: m.Payload,
	}, true, nil
}

// DeleteRetained implements arm.Broker.
func (o operator) DeleteRetained(ctx context.Context, name string) (bool, error) {
	m, err := o.stored.RetainedMessage(o.realm, name)
	if m == nil || err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, deletePatience)
	defer cancel()
	done := make(chan error, 1)
	nothing := &session.Message{Publish: packet.Publish{Topic: []byte(name), Retain: true}} // [MQTT-3.3.1-6]
	if err := o.stored.Retain(o.realm, nothing, func(err error) { done <- err }); err != nil {
		return true, err
	}
	select {
	case err := <-done:
		return true, err
	case <-ctx.Done():
		return true, fault.New(fault.Unavailable, "The message is not retained any more, but that could not be stored yet.")
	}
}
