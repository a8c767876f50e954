// Package arm is the control plane's HTTP interface: resources at the ids and
// with the api-versions, status codes, bodies and long-running operations that
// clients of Azure Resource Manager expect, and beside them, under
// /rollcall/v1, what is better than the original: sessions and their history, a
// live tail, and what became of every event subscription. docs/api.md
// describes it all.
//
// Its promises: nothing is answered with success that is not durable; a member,
// parameter or route that is not supported is refused by name, never ignored;
// an endpoint's full URL, secret headers and keys are given only to POSTs. The
// rules of each resource live in packages registry, grid and presence; here
// they are rendered. Who may ask is decided by package httpd before.
package arm

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"rollcall/internal/clock"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
	"rollcall/internal/httpd"
	"rollcall/internal/presence"
	"rollcall/internal/registry"
	"rollcall/internal/store"
)

// Options configure an API. Registry, Grid, Source, Ledger, Realm and
// Broker are required.
type Options struct {
	Registry *registry.Registry
	Grid     *grid.Grid
	Source   grid.Source // the namespace; its ID is the namespace's resource id
	Ledger   *presence.Ledger
	Realm    string // of the namespace's sessions

	// What resource ids are made of. Default: zeros, rollcall, default, local.
	SubscriptionID, ResourceGroup, Namespace, Location string

	Broker Broker
	// Refusals returns up to limit of the clients that were not let in lately,
	// the newest first; nil: none.
	Refusals func(limit int) []Refusal
	ServerCA []byte                   // PEM of the CA that servers' certificates are of; nil: not ours
	Status   func() any               // what GET status answers; nil: an empty object
	Keys     func() map[string]string // what POST keys reveals; nil: nothing
	MQTTHost func() string            // host:port; nil or "": none
	HTTPHost func() string            // host:port; nil or "": none

	Clock clock.Clock  // default: clock.System
	Log   *slog.Logger // default: discards

	MaxTails  int           // live tails at a time; default 64
	Heartbeat time.Duration // of live tails; default 15 s
	TailWrite time.Duration // how long a tail's reader may take to take what was written; default 30 s
	Watch     time.Duration // how long a watch waits; default 25 s
}

// API serves the control plane. It may be used concurrently.
type API struct {
	o     Options
	clock clock.Clock
	log   *slog.Logger
	tails atomic.Int64
}

// New checks the options and returns an API.
func New(o Options) (*API, error) {
	if o.Registry == nil || o.Grid == nil || o.Ledger == nil || o.Broker == nil || o.Realm == "" || o.Source.ID == "" {
		return nil, errors.New("arm: Registry, Grid, Source, Ledger, Realm and Broker are required")
	}
	for _, d := range []struct {
		v   *string
		def string
	}{
		{&o.SubscriptionID, "00000000-0000-0000-0000-000000000000"}, {&o.ResourceGroup, "rollcall"},
		{&o.Namespace, "default"}, {&o.Location, "local"},
	} {
		if *d.v == "" {
			*d.v = d.def
		}
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Status == nil {
		o.Status = func() any { return struct{}{} }
	}
	if o.Keys == nil {
		o.Keys = func() map[string]string { return map[string]string{} }
	}
	none := func() string { return "" }
	if o.MQTTHost == nil {
		o.MQTTHost = none
	}
	if o.HTTPHost == nil {
		o.HTTPHost = none
	}
	if o.MaxTails <= 0 {
		o.MaxTails = 64
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.TailWrite <= 0 {
		o.TailWrite = 30 * time.Second
	}
	if o.Watch <= 0 {
		o.Watch = 25 * time.Second
	}
	a := &API{o: o, clock: o.Clock, log: o.Log}
	if !strings.EqualFold(o.Source.ID, a.namespaceID()) {
		return nil, errors.New("arm: the source's id is not that of the namespace")
	}
	return a, nil
}

// Handler returns what serves the API. It is an httpd.Exempter: validation
// URLs carry their own proof.
func (a *API) Handler() http.Handler { return a }

// Exempt implements httpd.Exempter.
func (a *API) Exempt(r *http.Request) bool {
	segs, err := segments(r.URL.EscapedPath())
	return err == nil && isConfirmation(segs)
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := newRequest(w, r)
	if err == nil {
		err = a.serve(q)
	}
	if errors.Is(err, store.ErrClosed) {
		err = fault.New(fault.Unavailable, "The server is shutting down.")
	}
	if err != nil {
		httpd.Fail(w, r, a.log, err)
	}
}

func (a *API) serve(q *request) error {
	switch {
	case isConfirmation(q.segs):
		return a.confirm(q)
	case len(q.segs) > 0 && strings.EqualFold(q.segs[0], "rollcall"):
		return a.side(q)
	case len(q.segs) > 0 && (strings.EqualFold(q.segs[0], "subscriptions") || strings.EqualFold(q.segs[0], "providers")):
		return a.resource(q)
	}
	return fault.New(fault.NotFound, "There is nothing at this path. Resources are below %s, everything else is below /rollcall/v1.", a.namespaceID())
}

func (a *API) groupID() string {
	return "/subscriptions/" + a.o.SubscriptionID + "/resourceGroups/" + a.o.ResourceGroup
}

func (a *API) namespaceID() string {
	return a.groupID() + "/providers/" + provider + "/namespaces/" + a.o.Namespace
}
