package arm

import (
	"net/http"

	"rollcall/internal/fault"
)

// sideRetained serves retained messages.
func (a *API) sideRetained(q *request, rest []string) error {
	switch len(rest) {
	case 0:
		return q.by(methods{http.MethodGet: a.listRetained})
	case 1:
		topic := rest[0]
		return q.by(methods{
			http.MethodGet:    func(q *request) error { return a.showRetained(q, topic) },
			http.MethodDelete: func(q *request) error { return a.deleteRetained(q, topic) },
		})
	}
	return noRoute()
}

func (a *API) listRetained(q *request) error {
	if err := q.only("filter", "after", "limit"); err != nil {
		return err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	query := RetainedQuery{Filter: q.param("filter"), After: q.param("after"), Limit: int(limit)}
	if query.Filter == "" {
		query.Filter = "#"
	}
	found, more, err := a.o.Broker.ListRetained(q.r.Context(), query)
	if err != nil {
		return err
	}
	out := struct {
		Value     []Retained `json:"value"`
		NextAfter string     `json:"nextAfter,omitempty"`
	}{Value: found}
	if found == nil {
		out.Value = []Retained{}
	}
	if more {
		out.NextAfter = found[len(found)-1].Topic
	}
	return q.json(http.StatusOK, out)
}

func noRetained(topic string) error {
	return fault.New(fault.NotFound, "Nothing is retained for the topic '%.512s'.", topic)
}

func (a *API) showRetained(q *request, topic string) error {
	if err := q.only(); err != nil {
		return err
	}
	m, ok, err := a.o.Broker.RetainedMessage(topic)
	if err != nil {
		return err
	}
	if !ok {
		return noRetained(topic)
	}
	return q.json(http.StatusOK, m)
}

func (a *API) deleteRetained(q *request, topic string) error {
	if err := q.only(); err != nil {
		return err
	}
	if err := q.noBody(); err != nil {
		return err
	}
	existed, err := a.o.Broker.DeleteRetained(q.r.Context(), topic)
	if err != nil {
		return err
	}
	if !existed {
		return noRetained(topic)
	}
	return q.empty(http.StatusNoContent)
}
