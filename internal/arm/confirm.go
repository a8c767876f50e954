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

// confirm serves validation URLs. The token in the query string is the proof;
// HEAD does not count, since it is what previews send.
func (a *API) confirm(q *request) error {
	return q.by(methods{
		http.MethodGet: func(q *request) error {
			if err := a.o.Grid.Confirm(q.r.Context(), q.param("token")); err != nil {
				return err
			}
			httpd.WriteText(q.w, http.StatusOK, "The event subscription is confirmed; events will be delivered.")
			return nil
		},
		http.MethodHead: func(q *request) error { return q.empty(http.StatusNoContent) },
	})
}
