package arm

import (
	"context"
	"net/http"
	"strconv"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
	"rollcall/internal/httpd"
)

type sideSubscriptionJSON struct {
	Name                string              `json:"name"`
	ID                  string              `json:"id"`
	State               grid.State          `json:"state"`
	Paused              bool                `json:"paused"`
	EndpointBaseURL     string              `json:"endpointBaseUrl"`
	Schema              string              `json:"schema"`
	Backlog             uint64              `json:"backlog"`
	OldestPending       event.Time          `json:"oldestPending,omitzero"`
	LastError           *delivery.LastError `json:"lastError,omitempty"`
	Tally               delivery.Tally      `json:"tally"`
	Narration           []grid.Step         `json:"narration"`
	Failure             *operationFail      `json:"failure,omitempty"`
	DeadLetterDirectory string              `json:"deadLetterDirectory"`
	Created             event.Time          `json:"created"`
	Updated             event.Time          `json:"updated"`
}

func (q *request) sideSubscription(s grid.Subscription, t delivery.Tally) sideSubscriptionJSON {
	j := sideSubscriptionJSON{
		Name: s.Name, ID: s.ResourceID(), State: s.State, Paused: s.Properties.Paused,
		EndpointBaseURL: s.Properties.Destination.Shown(httpd.Trusted(q.r.Context())), Schema: s.Properties.Schema.String(),
		Backlog: t.Backlog, OldestPending: t.OldestPending, LastError: t.LastError, Tally: t, Narration: s.Narration,
		DeadLetterDirectory: s.Properties.DeadLetterDirectory, Created: event.Time{Time: s.Created}, Updated: event.Time{Time: s.Updated},
	}
	j.Tally.OldestPending, j.Tally.LastError = event.Time{}, nil // they are above
	if j.Narration == nil {
		j.Narration = []grid.Step{}
	}
	if s.Failure != nil {
		j.Failure = &operationFail{s.Failure.Code, s.Failure.Message}
	}
	return j
}

// sideSubscriptions serves what became of event subscriptions.
func (a *API) sideSubscriptions(q *request, rest []string) error {
	switch {
	case len(rest) == 0:
		return q.by(methods{http.MethodGet: a.listSideSubscriptions})
	case len(rest) == 1:
		return q.by(methods{http.MethodGet: func(q *request) error { return a.showSubscription(q, rest[0]) }})
	case len(rest) == 2 && rest[1] == "pause":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.setPaused(q, rest[0], a.o.Grid.Pause) }})
	case len(rest) == 2 && rest[1] == "resume":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.setPaused(q, rest[0], a.o.Grid.Resume) }})
	}
	return noRoute()
}

func (a *API) listSideSubscriptions(q *request) error {
	if err := q.only(); err != nil {
		return err
	}
	value := []sideSubscriptionJSON{}
	for _, s := range a.o.Grid.List(a.o.Source) {
		t, err := a.o.Grid.Tally(a.o.Source, s.Name)
		if isFault(err, fault.NotFound) { // deleted meanwhile
			continue
		}
		if err != nil {
			return err
		}
		value = append(value, q.sideSubscription(s, t))
	}
	return q.json(http.StatusOK, map[string]any{"value": value})
}

func (a *API) answerSideSubscription(q *request, s grid.Subscription) error {
	t, err := a.o.Grid.Tally(a.o.Source, s.Name)
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, q.sideSubscription(s, t))
}

// showSubscription answers at once or, when the caller says how much of the
// narration it knows, once there is something else to tell.
func (a *API) showSubscription(q *request, name string) error {
	if err := q.only("watch"); err != nil {
		return err
	}
	var s grid.Subscription
	var err error
	if text := q.param("watch"); text == "" {
		s, err = a.o.Grid.Get(a.o.Source, name)
	} else {
		known, bad := strconv.ParseUint(text, 10, 31)
		if bad != nil {
			return fault.At("watch", "'%.20s' is not the number of steps known.", text)
		}
		s, err = a.watch(q.r.Context(), name, int(known))
	}
	if err != nil {
		return err
	}
	return a.answerSideSubscription(q, s)
}

// watch waits until the narration has other than known steps, or anything
// changes, but not forever.
func (a *API) watch(ctx context.Context, name string, known int) (grid.Subscription, error) {
	changed, err := a.o.Grid.Watch(a.o.Source, name) // before Get, so that no change falls between
	if err != nil {
		return grid.Subscription{}, err
	}
	s, err := a.o.Grid.Get(a.o.Source, name)
	if err != nil || len(s.Narration) != known {
		return s, err
	}
	late := make(chan struct{})
	timer := a.clock.AfterFunc(a.o.Watch, func() { close(late) })
	defer timer.Stop()
	select {
	case <-changed:
	case <-late:
	case <-ctx.Done():
		return s, context.Cause(ctx)
	}
	return a.o.Grid.Get(a.o.Source, name)
}

func (a *API) setPaused(q *request, name string, set func(context.Context, grid.Source, string) (grid.Subscription, error)) error {
	if err := q.only(); err != nil {
		return err
	}
	if err := q.noBody(); err != nil {
		return err
	}
	s, err := set(q.r.Context(), a.o.Source, name)
	if err != nil {
		return err
	}
	return a.answerSideSubscription(q, s)
}
