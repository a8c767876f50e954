package arm_test

import (
	"context"
	"strings"

	"rollcall/internal/arm"
)

// fakeBroker has the sessions of a fixture, and what a test gives it.
type fakeBroker struct{ f *fixture }

func (b fakeBroker) EndSession(session, why string) bool { return b.f.end(session, why) }

func (b fakeBroker) DeleteSession(_ context.Context, session, why string) (bool, error) {
	return b.f.end(session, why), nil
}

func (b fakeBroker) ViewSession(string) (arm.SessionView, bool, error) {
	return arm.SessionView{}, false, nil
}
func (b fakeBroker) Subscriptions(string) ([]arm.Subscription, bool) { return nil, false }

func (b fakeBroker) ListRetained(_ context.Context, q arm.RetainedQuery) ([]arm.Retained, bool, error) {
	return []arm.Retained{{Topic: strings.TrimSuffix(q.Filter, "#") + q.After + "x", Bytes: q.Limit}}, false, nil
}

func (b fakeBroker) RetainedMessage(topic string) (arm.RetainedMessage, bool, error) {
	return arm.RetainedMessage{Retained: arm.Retained{Topic: topic, Bytes: 3}, Payload: []byte("p")}, topic != "absent", nil
}

func (b fakeBroker) DeleteRetained(_ context.Context, topic string) (bool, error) {
	return topic != "absent", nil
}
