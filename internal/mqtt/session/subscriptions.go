package session

import (
	"slices"
	"strings"

	"rollcall/internal/mqtt/topic"
)

// subscriptions are those of a session, by filter. Few are a list, which takes
// a fraction of the memory of a map.
type subscriptions struct {
	few  []Subscription // in the order of arrival
	many map[string]Subscription

	bytes int // the sum of their weights
}

const fewSubscriptions = 16

func (l *subscriptions) len() int {
	if l.many != nil {
		return len(l.many)
	}
	return len(l.few)
}

func (l *subscriptions) index(filter string) int {
	return slices.IndexFunc(l.few, func(s Subscription) bool { return s.Filter == filter })
}

func (l *subscriptions) get(filter string) (Subscription, bool) {
	if l.many != nil {
		s, ok := l.many[filter]
		return s, ok
	}
	if i := l.index(filter); i >= 0 {
		return l.few[i], true
	}
	return Subscription{}, false
}

func (l *subscriptions) put(s Subscription) {
	if _, have := l.get(s.Filter); !have {
		l.bytes += topic.Weight(s.Filter)
	}
	l.store(s)
}

func (l *subscriptions) store(s Subscription) {
	if l.many != nil {
		l.many[s.Filter] = s
		return
	}
	if i := l.index(s.Filter); i >= 0 {
		l.few[i] = s
		return
	}
	if len(l.few) < fewSubscriptions {
		l.few = append(l.few, s)
		return
	}
	l.many = make(map[string]Subscription, 2*fewSubscriptions)
	for _, f := range l.few {
		l.many[f.Filter] = f
	}
	l.few = nil
	l.many[s.Filter] = s
}

func (l *subscriptions) remove(filter string) bool {
	existed := l.delete(filter)
	if existed {
		l.bytes -= topic.Weight(filter)
	}
	return existed
}

func (l *subscriptions) delete(filter string) bool {
	if l.many != nil {
		n := len(l.many)
		if delete(l.many, filter); len(l.many) == 0 {
			l.many = nil
			return n > 0
		}
		return len(l.many) < n
	}
	i := l.index(filter)
	if i < 0 {
		return false
	}
	l.few = slices.Delete(l.few, i, i+1)
	return true
}

// all returns them: few in the order of arrival, many by filter.
func (l *subscriptions) all() []Subscription {
	if l.many == nil {
		return slices.Clone(l.few)
	}
	list := make([]Subscription, 0, len(l.many))
	for _, s := range l.many {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Subscription) int { return strings.Compare(a.Filter, b.Filter) })
	return list
}
