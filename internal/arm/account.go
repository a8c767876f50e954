package arm

import (
	"net/http"
	"strings"

	"rollcall/internal/fault"
)

// account serves subscriptions and resource groups, as far as clients look
// them up before they get to work.
func (a *API) account(q *request, id resourceID) error {
	tail := strings.ToLower(id.tail)
	switch {
	case id.subscription == "" && tail == "subscriptions":
		return q.by(methods{http.MethodGet: func(q *request) error {
			return q.json(http.StatusOK, map[string]any{"value": []any{a.subscriptionJSON()}})
		}})
	case id.subscription == "":
		return fault.New(fault.NotFound, "There is nothing at this path.")
	}
	if q.r.Method == http.MethodHead && id.group != "" && tail == "" { // how clients ask whether it exists
		if a.checkScope(id, fault.NotFound) != nil {
			return q.empty(http.StatusNotFound)
		}
		return q.empty(http.StatusNoContent)
	}
	if err := a.checkScope(id, fault.NotFound); err != nil {
		return err
	}
	switch {
	case id.group == "" && tail == "":
		return q.by(methods{http.MethodGet: func(q *request) error { return q.json(http.StatusOK, a.subscriptionJSON()) }})
	case id.group == "" && tail == "resourcegroups":
		return q.by(methods{http.MethodGet: func(q *request) error {
			if err := q.onlyOptions("$top"); err != nil {
				return err
			}
			return q.json(http.StatusOK, map[string]any{"value": []any{a.groupJSON()}})
		}})
	case id.group != "" && tail == "":
		return q.by(methods{http.MethodGet: func(q *request) error { return q.json(http.StatusOK, a.groupJSON()) }})
	}
	return fault.New(fault.NotFound, "There is nothing at this path.")
}

func (a *API) subscriptionJSON() any {
	return struct {
		ID             string `json:"id"`
		SubscriptionID string `json:"subscriptionId"`
		DisplayName    string `json:"displayName"`
		State          string `json:"state"`
		TenantID       string `json:"tenantId"`
	}{"/subscriptions/" + a.o.SubscriptionID, a.o.SubscriptionID, "Rollcall", "Enabled", a.o.SubscriptionID}
}

func (a *API) groupJSON() any {
	return struct {
		ID         string            `json:"id"`
		Name       string            `json:"name"`
		Type       string            `json:"type"`
		Location   string            `json:"location"`
		Properties map[string]string `json:"properties"`
	}{a.groupID(), a.o.ResourceGroup, "Microsoft.Resources/resourceGroups", a.o.Location, map[string]string{"provisioningState": "Succeeded"}}
}
