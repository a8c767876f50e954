package arm

import (
	"net/http"
	"strings"

	"rollcall/internal/httpd"
)

// isConfirmation reports whether a path is that of a validation URL:
// /eventsubscriptions/{name}/validate.
func isConfirmation(segs []string) bool {
	return len(segs) == 3 && strings.EqualFold(segs[0], "eventsubscriptions") && strings.EqualFold(segs[2], "validate")
}

// confirm serves validation URLs, by GET for people and by GET or POST for
// receivers (HTTP 1.1 Web Hooks for Event Delivery, 4.1.3). The token in the
// query string is the proof; HEAD does not count, since it is what previews
// send. A body is not looked at.
func (a *API) confirm(q *request) error {
	give := func(q *request) error {
		if err := a.o.Grid.Confirm(q.r.Context(), q.param("token"), q.r.Header); err != nil {
			return err
		}
		httpd.WriteText(q.w, http.StatusOK, "The event subscription is confirmed; events will be delivered.")
		return nil
	}
	return q.by(methods{
		http.MethodGet:  give,
		http.MethodPost: give,
		http.MethodHead: func(q *request) error { return q.empty(http.StatusNoContent) },
	})
}
