package arm

import (
	"net/http"
	"strings"
	"time"

	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/store"
)

// resourceJSON is the envelope of a proxy resource.
type resourceJSON struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Properties any            `json:"properties"`
	System     systemDataJSON `json:"systemData"`

	revision store.Revision
}

type systemDataJSON struct {
	Created  string `json:"createdAt"`
	Modified string `json:"lastModifiedAt"`
}

func systemData(created, updated time.Time) systemDataJSON {
	return systemDataJSON{event.FormatTime(created), event.FormatTime(updated)}
}

// resource answers with a resource and its entity tag.
func (q *request) resource(status int, r resourceJSON) error {
	q.w.Header().Set("ETag", etag(r.revision))
	if q.r.Method == http.MethodGet || q.r.Method == http.MethodHead {
		if lists(q.r.Header.Values("If-None-Match"), etag(r.revision)) {
			return q.empty(http.StatusNotModified)
		}
	}
	return q.json(status, r)
}

// condition is what If-Match and If-None-Match ask of a write.
type condition struct {
	revision store.Revision // not 0: the resource must have this revision
	absent   bool           // the resource must not exist
}

// condition reads the conditional headers of a write. current returns the
// resource's revision, or NotFound.
func (q *request) condition(current func() (store.Revision, error)) (c condition, err error) {
	if none := q.r.Header.Values("If-None-Match"); len(none) > 0 {
		if c, err = noneMatches(q.r.Method, none, current); err != nil {
			return c, err
		}
	}
	match := q.r.Header.Values("If-Match")
	if len(match) == 0 {
		return c, nil
	}
	rev, err := current()
	if e, ok := fault.As(err); ok && e.Code == fault.NotFound {
		return c, fault.New(fault.PreconditionFailed, "The resource does not exist.")
	}
	if err != nil {
		return c, err
	}
	if !lists(match, etag(rev)) {
		return c, fault.New(fault.PreconditionFailed, "The resource has changed since it was read.")
	}
	c.revision = rev
	return c, nil
}

// noneMatches judges If-None-Match of a write: what it names must not be there,
// now and when the write is made.
func noneMatches(method string, none []string, current func() (store.Revision, error)) (c condition, err error) {
	every := len(none) == 1 && strings.TrimSpace(none[0]) == "*"
	if every && method != http.MethodPut {
		return c, fault.New(fault.InvalidRequest, "If-None-Match is supported as '*' with PUT only.")
	}
	rev, err := current()
	switch e, ok := fault.As(err); {
	case ok && e.Code == fault.NotFound:
		c.absent = true
	case err != nil:
		return c, err
	case every:
		return c, fault.New(fault.PreconditionFailed, "The resource exists already.")
	case lists(none, etag(rev)):
		return c, fault.New(fault.PreconditionFailed, "The resource is what If-None-Match names.")
	default:
		c.revision = rev
	}
	return c, nil
}

// deleted answers a DELETE.
func (q *request) deleted(existed bool, err error) error {
	switch {
	case err != nil:
		return err
	case existed:
		return q.empty(http.StatusOK)
	}
	return q.empty(http.StatusNoContent)
}

// put answers a PUT that may answer 200 or 201.
func (q *request) put(created bool, r resourceJSON) error {
	if created {
		return q.resource(http.StatusCreated, r)
	}
	return q.resource(http.StatusOK, r)
}
