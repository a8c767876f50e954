package arm

import (
	"net/http"
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/grid"
	"rollcall/internal/httpd"
	"rollcall/internal/store"
)

// extension serves event subscriptions as extensions of the resource whose
// events they are about. That is the namespace; other scopes have no events.
func (a *API) extension(q *request, id resourceID) error {
	b, tail := id.last(), strings.ToLower(id.tail)
	types := b.types()
	if types == "" && tail != "eventsubscriptions" || types != "" && types != "eventsubscriptions" {
		return unserved(q, resourceID{blocks: []block{b}, tail: id.tail})
	}
	if err := a.checkSource(id); err != nil {
		return err
	}
	if types == "" {
		return q.by(methods{http.MethodGet: a.listSubscriptions})
	}
	name := b.name(0)
	switch tail {
	case "":
		return a.subscription(q, name)
	case "getfullurl":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.fullURL(q, name) }})
	case "getdeliveryattributes":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.deliveryAttributes(q, name) }})
	}
	return fault.New(fault.InvalidType, "The action '%.100s' of event subscriptions could not be found.", id.tail)
}

// checkSource refuses scopes that have no events here.
func (a *API) checkSource(id resourceID) error {
	if len(id.blocks) == 2 && strings.EqualFold(id.blocks[0].provider, provider) && id.blocks[0].types() == "namespaces" {
		return a.checkNamespace(id)
	}
	return fault.New(fault.NotFound, "This scope has no events here; the scope %s has.", a.namespaceID())
}

// subscription serves one event subscription. The original answers a PUT and a
// PATCH with 201 in any case, and clients insist on it.
func (a *API) subscription(q *request, name string) error {
	ctx := q.r.Context()
	return q.by(methods{
		http.MethodGet: func(q *request) error {
			s, err := a.o.Grid.Get(a.o.Source, name)
			if err != nil {
				return err
			}
			return a.answerSubscription(q, http.StatusOK, s)
		},
		http.MethodPut: func(q *request) error {
			cond, body, err := a.subscriptionWrite(q, name)
			if err != nil {
				return err
			}
			properties, err := envelope(body)
			if err != nil {
				return err
			}
			p, err := grid.DecodeProperties(properties)
			if err != nil {
				return err
			}
			s, _, err := a.o.Grid.Put(ctx, a.o.Source, name, p, cond)
			if err != nil {
				return err
			}
			return a.acceptSubscription(q, s)
		},
		http.MethodPatch: func(q *request) error {
			cond, body, err := a.subscriptionWrite(q, name)
			if err != nil {
				return err
			}
			if err := checkFlat(body); err != nil {
				return err
			}
			p, err := grid.DecodePatch(body)
			if err != nil {
				return err
			}
			s, err := a.o.Grid.Patch(ctx, a.o.Source, name, p, cond)
			if err != nil {
				return err
			}
			return a.acceptSubscription(q, s)
		},
		http.MethodDelete: func(q *request) error {
			cond, err := a.subscriptionCondition(q, name)
			if err != nil {
				return err
			}
			return q.deleted(a.o.Grid.Delete(ctx, a.o.Source, name, cond))
		},
	})
}

// checkFlat refuses the body of a PATCH in the form of a PUT.
func checkFlat(body []byte) error {
	var bad fault.List
	o := newObject("", body, &bad)
	o.refuse("properties", "The body of a PATCH is flat: the members of properties without the wrapper.")
	return bad.Err()
}

func (a *API) subscriptionWrite(q *request, name string) (grid.Condition, []byte, error) {
	cond, err := a.subscriptionCondition(q, name)
	if err != nil {
		return cond, nil, err
	}
	body, err := q.needBody()
	return cond, body, err
}

func (a *API) subscriptionCondition(q *request, name string) (grid.Condition, error) {
	c, err := q.condition(func() (store.Revision, error) {
		s, err := a.o.Grid.Get(a.o.Source, name)
		return s.Revision, err
	})
	return grid.Condition{Revision: c.revision, Absent: c.absent}, err
}

// acceptSubscription answers a write. While the endpoint is being asked, the
// answer says where to look how far that is.
func (a *API) acceptSubscription(q *request, s grid.Subscription) error {
	if settling(s.State) {
		h := q.w.Header()
		h.Set("Azure-AsyncOperation", a.operationURL(q, s))
		h.Set("Retry-After", "1")
	}
	return a.answerSubscription(q, http.StatusCreated, s)
}

func (a *API) answerSubscription(q *request, status int, s grid.Subscription) error {
	r, err := q.subscriptionResource(s)
	if err != nil {
		return err
	}
	return q.resource(status, r)
}

func (q *request) subscriptionResource(s grid.Subscription) (resourceJSON, error) {
	properties, err := s.PropertiesJSON(httpd.Trusted(q.r.Context()))
	return resourceJSON{
		ID: s.ResourceID(), Name: s.Name, Type: provider + "/eventSubscriptions", Properties: properties,
		System: systemData(s.Created, s.Updated), revision: s.Revision,
	}, err
}

func (a *API) listSubscriptions(q *request) error {
	p, err := q.page()
	if err != nil {
		return err
	}
	after := strings.ToLower(p.after)
	var value []resourceJSON
	for _, s := range a.o.Grid.List(a.o.Source) {
		if after != "" && strings.ToLower(s.Name) <= after || !p.keep(s.Name) {
			continue
		}
		if len(value) == p.top {
			return q.list(value, true)
		}
		r, err := q.subscriptionResource(s)
		if err != nil {
			return err
		}
		value = append(value, r)
	}
	return q.list(value, false)
}

// fullURL reveals the endpoint with its query string.
func (a *API) fullURL(q *request, name string) error {
	s, err := a.reveal(q, name)
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, map[string]string{"endpointUrl": s.FullURL()})
}

// deliveryAttributes reveals the headers of deliveries, secret ones too.
func (a *API) deliveryAttributes(q *request, name string) error {
	s, err := a.reveal(q, name)
	if err != nil {
		return err
	}
	value, err := s.AttributesJSON()
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, map[string]any{"value": value})
}

func (a *API) reveal(q *request, name string) (grid.Subscription, error) {
	if err := q.noBody(); err != nil {
		return grid.Subscription{}, err
	}
	return a.o.Grid.Get(a.o.Source, name)
}
