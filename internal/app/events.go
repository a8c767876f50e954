package app

import (
	"log/slog"

	"rollcall/internal/grid"
	"rollcall/internal/presence"
	"rollcall/internal/registry"
	"rollcall/internal/store"
	"rollcall/internal/sysevent"
)

// events turns what happens into system events of one namespace and stages them
// into the batch that says so. It is how facts reach the grid without either
// knowing the other.
type events struct {
	grid      *grid.Grid
	source    grid.Source
	namespace sysevent.Namespace
}

// transitions stages the events of sessions.
type transitions struct{ *events }

// Stage implements presence.Stager.
func (e transitions) Stage(b *store.Batch, partition uint8, t *presence.Transition) func(store.Result) {
	at := sysevent.Stamp{ID: t.EventID, Time: t.Time}
	s := sysevent.Session{AuthenticationName: t.Owner, Name: t.Session, Number: t.Number}
	ev := sysevent.SessionConnected(e.namespace, at, s)
	if t.Kind == presence.Disconnected {
		ev = sysevent.SessionDisconnected(e.namespace, at, s, t.Reason.String())
	}
	return e.grid.Stage(b, partition, e.source, ev).Done
}

// changes stages the events of client resources.
type changes struct {
	*events
	log *slog.Logger
}

// Stage implements registry.Stager.
func (c changes) Stage(b *store.Batch, partition uint8, ch *registry.Change) func(store.Result) {
	at := sysevent.Stamp{ID: ch.EventID, Time: ch.Time}
	if ch.Kind == registry.Deleted {
		ev := sysevent.ClientDeleted(c.namespace, at, ch.Client.Name, ch.Client.AuthenticationName)
		return c.grid.Stage(b, partition, c.source, ev).Done
	}
	ev, err := sysevent.ClientCreatedOrUpdated(c.namespace, at, sysevent.Client{
		Name: ch.Client.Name, AuthenticationName: ch.Client.AuthenticationName, State: string(ch.Client.State),
		CreatedOn: ch.Client.CreatedOn, UpdatedOn: ch.Client.UpdatedOn, Attributes: ch.Client.Attributes,
	})
	if err != nil { // attributes are validated when they are written
		c.log.Error("a client's event cannot be made", "client", ch.Client.Name, "err", err)
		return nil
	}
	return c.grid.Stage(b, partition, c.source, ev).Done
}
