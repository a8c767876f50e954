package arm

import (
	"net/http"

	"rollcall/internal/event"
)

// Refusal is a client that was not let in, as GET refusals shows it.
type Refusal struct {
	Time      event.Time `json:"time"`
	Remote    string     `json:"remote"`
	Transport string     `json:"transport"`
	ClientID  string     `json:"clientId,omitempty"` // absent: unknown
	UserName  string     `json:"userName,omitempty"` // absent: none, or unknown
	Reason    string     `json:"reason"`             // of a small closed set
	Code      string     `json:"code,omitempty"`     // of CONNACK; absent: the connection was closed without one
	Detail    string     `json:"detail"`
}

// listRefusals serves the clients that were not let in lately.
func (a *API) listRefusals(q *request) error {
	if err := q.only("limit"); err != nil {
		return err
	}
	limit, err := q.number("limit", defaultLimit, maxLimit)
	if err != nil {
		return err
	}
	out := struct {
		Value []Refusal `json:"value"`
	}{Value: []Refusal{}}
	if a.o.Refusals != nil {
		out.Value = append(out.Value, a.o.Refusals(int(limit))...)
	}
	return q.json(http.StatusOK, out)
}
