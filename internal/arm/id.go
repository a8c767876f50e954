package arm

import (
	"strings"

	"rollcall/internal/fault"
)

// provider is the namespace of our resource types.
const provider = "Microsoft.EventGrid"

// resourceID is a parsed path of the resource manager:
//
//	/subscriptions/S/resourceGroups/G/providers/P/T/N/T/N/providers/P/T/N…
//
// Keywords and types are compared ignoring case; names are kept as they came.
type resourceID struct {
	subscription string // "": not below a subscription
	group        string // "": not below a resource group
	blocks       []block
	// tail is a last segment without a partner: a collection, or an action on
	// what comes before it. Within a subscription without blocks it is
	// "resourceGroups" or whatever else was asked for.
	tail string
}

// block is what one provider's types and names are.
type block struct {
	provider string
	pairs    []pair
}

type pair struct{ kind, name string }

// parseID parses a path that begins with subscriptions or providers.
func parseID(segs []string) (resourceID, error) {
	var id resourceID
	rest := segs
	take := func(keyword string) (string, bool) {
		if len(rest) >= 2 && strings.EqualFold(rest[0], keyword) {
			name := rest[1]
			rest = rest[2:]
			return name, true
		}
		return "", false
	}
	id.subscription, _ = take("subscriptions")
	if id.subscription != "" {
		id.group, _ = take("resourceGroups")
	}
	for len(rest) >= 2 {
		name, ok := take("providers")
		if !ok {
			if len(id.blocks) == 0 {
				return id, fault.New(fault.NotFound, "There is nothing at this path; 'providers' is expected in place of '%.100s'.", rest[0])
			}
			last := &id.blocks[len(id.blocks)-1]
			last.pairs = append(last.pairs, pair{rest[0], rest[1]})
			rest = rest[2:]
			continue
		}
		if n := len(id.blocks); n > 0 && len(id.blocks[n-1].pairs) == 0 {
			return id, fault.New(fault.NotFound, "There is nothing at this path; a resource type is expected after the provider '%.100s'.", id.blocks[n-1].provider)
		}
		id.blocks = append(id.blocks, block{provider: name})
	}
	if len(rest) == 1 {
		id.tail = rest[0]
	}
	return id, nil
}

// last is the last provider's block. There is one.
func (id resourceID) last() block { return id.blocks[len(id.blocks)-1] }

// types are the types of a block in lower case, joined by slashes.
func (b block) types() string {
	names := make([]string, 0, len(b.pairs)+1)
	for _, p := range b.pairs {
		names = append(names, strings.ToLower(p.kind))
	}
	return strings.Join(names, "/")
}

// name is the i-th name of a block. There is one.
func (b block) name(i int) string { return b.pairs[i].name }
