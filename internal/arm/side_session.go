package arm

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"rollcall/internal/disconnect"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/presence"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	maxWhy       = 256 // bytes
)

type sessionJSON struct {
	Session        string          `json:"session"`
	Owner          string          `json:"owner"`
	Connected      bool            `json:"connected"`
	Number         uint64          `json:"number"`
	Since          event.Time      `json:"since"`
	Protocol       string          `json:"protocol"`
	Transport      string          `json:"transport"`
	Remote         string          `json:"remote"`
	Method         string          `json:"method"`
	Node           string          `json:"node"`
	Boot           uint64          `json:"boot"`
	EventID        string          `json:"eventId"`
	LastDisconnect *disconnectJSON `json:"lastDisconnect,omitempty"`

	// Of one session, while it is connected or stored.
	Subscriptions *int        `json:"subscriptions,omitempty"`
	Queue         *Queue      `json:"queue,omitempty"`
	Stored        *storedJSON `json:"stored,omitempty"`
}

// storedJSON is what is kept of a session without a connection.
type storedJSON struct {
	Owner         string      `json:"owner"`
	ExpirySeconds *uint32     `json:"expirySeconds,omitempty"` // absent: for ever
	ExpiresAt     *event.Time `json:"expiresAt,omitempty"`
}

type disconnectJSON struct {
	Reason   string       `json:"reason"`
	Evidence evidenceJSON `json:"evidence"`
}

type evidenceJSON struct {
	Kind   string `json:"kind"`
	Packet string `json:"packet,omitempty"`
	Code   *uint8 `json:"code,omitempty"`
	Detail string `json:"detail"`
}

type transitionJSON struct {
	Number    uint64        `json:"number"`
	Kind      string        `json:"kind"`
	Time      event.Time    `json:"time"`
	EventID   string        `json:"eventId"`
	Owner     string        `json:"owner"`
	Protocol  string        `json:"protocol"`
	Transport string        `json:"transport"`
	Remote    string        `json:"remote"`
	Method    string        `json:"method"`
	Node      string        `json:"node"`
	Boot      uint64        `json:"boot"`
	Skipped   uint64        `json:"skipped,omitempty"` // numbers before this one that a loss may have taken
	Reason    string        `json:"reason,omitempty"`
	Evidence  *evidenceJSON `json:"evidence,omitempty"`
}

func evidence(e disconnect.Evidence) evidenceJSON {
	j := evidenceJSON{Kind: e.Kind.String(), Packet: e.Packet, Detail: e.Detail}
	if e.HasCode {
		j.Code = &e.Code
	}
	return j
}

func session(s presence.State) sessionJSON {
	j := sessionJSON{
		Session: s.Session, Owner: s.Owner, Connected: s.Open(), Number: s.Number, Since: event.Time{Time: s.Since},
		Protocol: s.Origin.Protocol, Transport: s.Origin.Transport, Remote: s.Origin.Remote, Method: s.Origin.Method,
		Node: s.Holder.Node, Boot: s.Holder.Boot, EventID: s.EventID,
	}
	if s.Reason.Valid() {
		j.LastDisconnect = &disconnectJSON{s.Reason.String(), evidence(s.Evidence)}
	}
	return j
}

func transition(t presence.Transition) transitionJSON {
	j := transitionJSON{
		Number: t.Number, Kind: t.Kind.String(), Time: event.Time{Time: t.Time}, EventID: t.EventID, Owner: t.Owner,
		Protocol: t.Origin.Protocol, Transport: t.Origin.Transport, Remote: t.Origin.Remote, Method: t.Origin.Method,
		Node: t.Holder.Node, Boot: t.Holder.Boot, Skipped: t.Skipped,
	}
	if t.Kind == presence.Disconnected {
		e := evidence(t.Evidence)
		j.Reason, j.Evidence = t.Reason.String(), &e
	}
	return j
}

// sideSessions serves the ledger.
func (a *API) sideSessions(q *request, rest []string) error {
	switch {
	case len(rest) == 0:
		return q.by(methods{http.MethodGet: a.listSessions})
	case len(rest) == 1:
		return q.by(methods{
			http.MethodGet:    func(q *request) error { return a.showSession(q, rest[0]) },
			http.MethodDelete: func(q *request) error { return a.deleteSession(q, rest[0]) },
		})
	case len(rest) == 2 && rest[1] == "subscriptions":
		return q.by(methods{http.MethodGet: func(q *request) error { return a.sessionSubscriptions(q, rest[0]) }})
	case len(rest) == 2 && rest[1] == "history":
		return q.by(methods{http.MethodGet: func(q *request) error { return a.history(q, rest[0]) }})
	case len(rest) == 2 && rest[1] == "end":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.endSession(q, rest[0]) }})
	}
	return noRoute()
}

func (a *API) show(name string) (presence.State, error) {
	s, err := a.o.Ledger.Show(a.o.Realm, name)
	if errors.Is(err, presence.ErrUnknownSession) {
		return s, fault.New(fault.NotFound, "No session named '%.512s' was ever connected.", name)
	}
	return s, err
}

// showSession answers with what the ledger and the broker have of a session.
func (a *API) showSession(q *request, name string) error {
	if err := q.only(); err != nil {
		return err
	}
	s, err := a.show(name)
	if err != nil {
		return err
	}
	j := session(s)
	v, ok, err := a.o.Broker.ViewSession(name)
	if err != nil {
		return err
	}
	if ok {
		j.Subscriptions, j.Queue = &v.Subscriptions, &v.Queue
		if st := v.Stored; st != nil {
			j.Stored = &storedJSON{Owner: st.Owner}
			if st.Expiry >= 0 {
				seconds := uint32(st.Expiry / time.Second)
				j.Stored.ExpirySeconds = &seconds
			}
			if !st.ExpiresAt.IsZero() {
				j.Stored.ExpiresAt = &event.Time{Time: st.ExpiresAt}
			}
		}
	}
	return q.json(http.StatusOK, j)
}

func (a *API) sessionSubscriptions(q *request, name string) error {
	if err := q.only("after", "limit"); err != nil {
		return err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	if _, err := a.show(name); err != nil {
		return err
	}
	all, _ := a.o.Broker.Subscriptions(name)
	after := q.param("after")
	all = slices.DeleteFunc(all, func(s Subscription) bool { return s.Filter <= after })
	out := struct {
		Value     []Subscription `json:"value"`
		NextAfter string         `json:"nextAfter,omitempty"`
	}{Value: all}
	if out.Value == nil {
		out.Value = []Subscription{}
	}
	if len(all) > int(limit) {
		out.Value = all[:limit]
		out.NextAfter = all[limit-1].Filter
	}
	return q.json(http.StatusOK, out)
}

// deleteSession ends a session with what is stored of it.
func (a *API) deleteSession(q *request, name string) error {
	if err := q.only("why"); err != nil {
		return err
	}
	if err := q.noBody(); err != nil {
		return err
	}
	why := q.param("why")
	if len(why) > maxWhy || !utf8.ValidString(why) {
		return fault.At("why", "The text has more than %d bytes or is not UTF-8.", maxWhy)
	}
	existed, err := a.o.Broker.DeleteSession(q.r.Context(), name, why)
	if err != nil {
		return err
	}
	if !existed {
		if _, err := a.show(name); err != nil {
			return err
		}
		return fault.New(fault.NotFound, "The session '%.512s' is neither connected nor stored.", name)
	}
	return q.empty(http.StatusNoContent)
}

func (a *API) listSessions(q *request) error {
	if err := q.only("connected", "after", "limit"); err != nil {
		return err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	want, err := q.choice("connected", "", "true", "false")
	if err != nil {
		return err
	}
	query := presence.Query{Realm: a.o.Realm, After: q.param("after"), Limit: int(limit), Open: want == "true"}
	list := a.o.Ledger.List
	if want == "false" {
		list = a.gone
	}
	found, more, err := list(q.r.Context(), query)
	if err != nil {
		return err
	}
	out := struct {
		Value     []sessionJSON `json:"value"`
		NextAfter string        `json:"nextAfter,omitempty"`
	}{Value: make([]sessionJSON, len(found))}
	for i, s := range found {
		out.Value[i] = session(s)
	}
	if more {
		out.NextAfter = found[len(found)-1].Session
	}
	return q.json(http.StatusOK, out)
}

// gone lists sessions that are not connected, page by page of all.
func (a *API) gone(ctx context.Context, query presence.Query) (found []presence.State, more bool, err error) {
	limit := query.Limit
	query.Limit = maxLimit
	for {
		all, further, err := a.o.Ledger.List(ctx, query)
		if err != nil {
			return nil, false, err
		}
		for _, s := range all {
			if s.Open() {
				continue
			}
			if len(found) == limit {
				return found, true, nil
			}
			found = append(found, s)
		}
		if !further {
			return found, false, nil
		}
		query.After = all[len(all)-1].Session
	}
}

func (a *API) history(q *request, name string) error {
	if err := q.only("from", "limit", "order"); err != nil {
		return err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	from, err := q.number("from", 0, math.MaxUint64)
	if err != nil {
		return err
	}
	order, err := q.choice("order", "newest", "oldest")
	if err != nil {
		return err
	}
	if _, err := a.show(name); err != nil {
		return err
	}
	// Pages are continued by number, which the two transitions of a connection
	// share, so a page takes both or neither and may have one more than asked.
	page := presence.Page{From: from, Limit: int(limit) + 2, Newest: order == "newest"}
	found, _, err := a.o.Ledger.History(a.o.Realm, name, page)
	if err != nil {
		return err
	}
	n := min(int(limit), len(found))
	if n < len(found) && found[n].Number == found[n-1].Number {
		n++
	}
	out := struct {
		Value    []transitionJSON `json:"value"`
		NextFrom uint64           `json:"nextFrom,omitempty"`
	}{Value: []transitionJSON{}}
	if n < len(found) {
		out.NextFrom = found[n].Number
		found = found[:n]
	}
	for _, t := range found {
		out.Value = append(out.Value, transition(t))
	}
	return q.json(http.StatusOK, out)
}

// endSession ends a session's connection.
func (a *API) endSession(q *request, name string) error {
	if err := q.only(); err != nil {
		return err
	}
	body, err := q.body()
	if err != nil {
		return err
	}
	var why string
	var bad fault.List
	o := newObject("", body, &bad)
	o.into("why", &why, "A string")
	o.finish()
	if len(why) > maxWhy || !utf8.ValidString(why) {
		bad.Add(fault.At("why", "The text has more than %d bytes or is not UTF-8.", maxWhy))
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if !a.o.Broker.EndSession(name, why) {
		if _, err := a.show(name); err != nil {
			return err
		}
		return fault.New(fault.NotFound, "The session '%.512s' is not connected.", name)
	}
	return q.json(http.StatusOK, map[string]bool{"ended": true})
}
