package registry

import (
	"maps"
	"slices"
	"time"

	"rollcall/internal/store"
)

// State says whether a client may connect.
type State string

// The states.
const (
	Enabled  State = "Enabled"
	Disabled State = "Disabled"
)

// Scheme says how a client's certificate is judged.
type Scheme string

// The validation schemes. All but ThumbprintMatch want a certificate signed by
// a CA that is registered here, with the authentication name in one field.
const (
	SubjectMatches  Scheme = "SubjectMatchesAuthenticationName"
	DNSMatches      Scheme = "DnsMatchesAuthenticationName"
	URIMatches      Scheme = "UriMatchesAuthenticationName"
	IPMatches       Scheme = "IpMatchesAuthenticationName"
	EmailMatches    Scheme = "EmailMatchesAuthenticationName"
	ThumbprintMatch Scheme = "ThumbprintMatch"
)

// Succeeded is the provisioning state of every resource here: a change is done
// when it is answered.
const Succeeded = "Succeeded"

// Client is a client resource. Maps and slices are the reader's own.
type Client struct {
	Name               string
	AuthenticationName string // unique ignoring case; in the case it was created with
	Description        string
	State              State
	ValidationScheme   Scheme
	AllowedThumbprints []string       // as they were written; with ThumbprintMatch only
	Attributes         map[string]any // string, int64, bool or []string
	CreatedOn          time.Time      // UTC, to 100 ns
	UpdatedOn          time.Time      // rises with every change
	ProvisioningState  string         // Succeeded
	HasPassword        bool
	Revision           store.Revision // of the stored resource; 0 in events
}

// ClientSpec is what a write of a client says. The zero value is a client with
// all defaults.
type ClientSpec struct {
	// AuthenticationName is 1 to 128 characters. Default: the resource name.
	// It cannot be changed; empty on a replace keeps it.
	AuthenticationName string
	Description        string // at most 4,096 bytes
	State              string // Enabled (default) or Disabled, in any case
	ValidationScheme   string // default SubjectMatchesAuthenticationName; in any case
	// AllowedThumbprints are one or two certificates' SHA-256 or SHA-1 hashes
	// in hexadecimal. Required with ThumbprintMatch, not allowed otherwise.
	AllowedThumbprints []string
	// Attributes have names of letters, digits and underscores, and values
	// that are strings, 64-bit integers, bools or arrays of strings. Their JSON
	// is less than 4 KiB. Numbers may also be json.Number or a whole float64.
	Attributes map[string]any
	// Password is 1 to 1,024 bytes; empty removes it, nil keeps what is there.
	Password *string
}

// Condition guards a write. The zero value is none.
type Condition struct {
	Revision store.Revision // not 0: the resource must have this revision
	Absent   bool           // the resource must not exist
}

// clone returns a copy that shares nothing that could be changed.
func (c Client) clone() Client {
	c.AllowedThumbprints = slices.Clone(c.AllowedThumbprints)
	c.Attributes = maps.Clone(c.Attributes)
	for k, v := range c.Attributes {
		if list, ok := v.([]string); ok {
			c.Attributes[k] = slices.Clone(list)
		}
	}
	return c
}

// ChangeKind is what became of a client.
type ChangeKind uint8

// The kinds of changes.
const (
	Upserted ChangeKind = 1 // created or updated
	Deleted  ChangeKind = 2
)

// Change is what an event tells of.
type Change struct {
	Kind    ChangeKind
	Client  Client // as it stands after the change, or stood before it was deleted
	EventID string
	Time    time.Time // when the change was noticed: of the commit, or of emission if coalesced
}

// Stager adds the event that tells of a change to a batch. It may be called
// concurrently and must not block. The function that it returns, which may be
// nil, is called once with the batch's outcome, in commit order among batches
// that succeeded, and must not block either.
type Stager interface {
	Stage(b *store.Batch, partition uint8, c *Change) (done func(store.Result))
}
