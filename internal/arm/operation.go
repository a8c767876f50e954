package arm

import (
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
)

// The operation of a write is named by its event subscription and the time:
// nothing has to be kept for it, so it can be asked after across restarts and
// for as long as the subscription exists. It tells how the newest write stands.
func operationName(s grid.Subscription) string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], s.ID)
	binary.BigEndian.PutUint64(id[8:], uint64(s.Updated.UnixNano()))
	return id.String()
}

func parseOperation(name string) (subscription uint64, began time.Time, ok bool) {
	id, err := uuid.Parse(name)
	if err != nil || len(name) != 36 {
		return 0, time.Time{}, false
	}
	return binary.BigEndian.Uint64(id[:8]), time.Unix(0, int64(binary.BigEndian.Uint64(id[8:]))).UTC(), true
}

func (a *API) operationID(name string) string {
	return "/subscriptions/" + a.o.SubscriptionID + "/providers/" + provider + "/locations/" + url.PathEscape(a.o.Location) + "/operationsStatus/" + name
}

func (a *API) operationURL(q *request, s grid.Subscription) string {
	return q.base() + a.operationID(operationName(s)) + "?api-version=" + url.QueryEscape(q.param("api-version"))
}

// settling reports whether the outcome of a write is still open. While a
// person has to act, the operation goes on too.
func settling(s grid.State) bool {
	return s == grid.Creating || s == grid.Updating || s == grid.AwaitingManualAction
}

type operationJSON struct {
	ID     string         `json:"id"`
	Name   string         `json:"name"`
	Status string         `json:"status"`
	Start  string         `json:"startTime"`
	End    string         `json:"endTime,omitempty"`
	Error  *operationFail `json:"error,omitempty"`
}

type operationFail struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
}

// operation answers how a write stands.
func (a *API) operation(q *request, location, name string) error {
	id, began, ok := parseOperation(name)
	unknown := fault.New(fault.NotFound, "The operation '%.100s' is unknown, or its event subscription was deleted.", name)
	if !ok || !strings.EqualFold(location, a.o.Location) {
		return unknown
	}
	for _, s := range a.o.Grid.List(a.o.Source) {
		if s.ID != id {
			continue
		}
		o := operationJSON{ID: a.operationID(name), Name: name, Status: "InProgress", Start: event.FormatTime(began)}
		switch {
		case s.State == grid.AwaitingManualAction:
			q.w.Header().Set("Retry-After", "5")
		case settling(s.State):
			q.w.Header().Set("Retry-After", "1")
		default:
			o.Status, o.End = string(s.State), event.FormatTime(s.Updated)
			if s.Failure != nil {
				o.Error = &operationFail{s.Failure.Code, s.Failure.Message}
			}
		}
		return q.json(http.StatusOK, o)
	}
	return unknown
}
