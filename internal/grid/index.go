package grid

import (
	"slices"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/filter"
)

// index is the matching subscriptions of one source. It is immutable.
type index struct {
	source *delivery.Source
	all    []target            // want every event type
	byType map[string][]target // by folded event type
}

type target struct {
	id      uint64
	queue   *delivery.Queue
	matcher *filter.Matcher
}

// rebuild replaces the index of a source. The grid is locked, which orders
// replacements.
func (g *Grid) rebuild(realm string) {
	next := make(map[string]*index)
	for r, ix := range *g.indexes.Load() {
		next[r] = ix
	}
	delete(next, realm)
	ix := &index{byType: make(map[string][]target)}
	n := 0
	for k, e := range g.entries {
		if k.realm != realm || e.queue == nil {
			continue
		}
		n++
		t := target{e.rec.ID, e.queue, e.matcher}
		types := e.matcher.Types()
		if types == nil {
			ix.all = append(ix.all, t)
		}
		for _, name := range types {
			ix.byType[name] = append(ix.byType[name], t)
		}
	}
	if n > 0 {
		ix.source = g.dispatcher.Source(realm)
		byID := func(a, b target) int { return int(int64(a.id) - int64(b.id)) }
		slices.SortFunc(ix.all, byID)
		for _, list := range ix.byType {
			slices.SortFunc(list, byID)
		}
		next[realm] = ix
	}
	g.indexes.Store(&next)
}

// match appends the ids and queues of the subscriptions that want e.
func (ix *index) match(e *event.Event, ids []uint64, queues []*delivery.Queue) ([]uint64, []*delivery.Queue) {
	lists := [2][]target{ix.all}
	if len(ix.byType) > 0 {
		var stack [128]byte
		lists[1] = ix.byType[string(filter.AppendFold(stack[:0], e.Type))]
	}
	for _, list := range lists {
		for i := range list {
			if t := &list[i]; t.matcher.MatchSubject(e.Subject) {
				ids = append(ids, t.id)
				queues = append(queues, t.queue)
			}
		}
	}
	return ids, queues
}
