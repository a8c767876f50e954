package arm

import (
	"net/http"

	"rollcall/internal/fault"
)

// The JSON of the namespace. What it could say about features that we do not
// have is left out.
type namespaceJSON struct {
	ID         string                  `json:"id"`
	Name       string                  `json:"name"`
	Type       string                  `json:"type"`
	Location   string                  `json:"location"`
	SKU        skuJSON                 `json:"sku"`
	Properties namespacePropertiesJSON `json:"properties"`
}

type skuJSON struct {
	Name     string `json:"name"`
	Capacity int    `json:"capacity"`
}

type namespacePropertiesJSON struct {
	ProvisioningState string          `json:"provisioningState"`
	Topics            hostJSON        `json:"topicsConfiguration"`
	TopicSpaces       topicSpacesJSON `json:"topicSpacesConfiguration"`
	ZoneRedundant     bool            `json:"isZoneRedundant"`
	PublicAccess      string          `json:"publicNetworkAccess"`
}

type hostJSON struct {
	Hostname string `json:"hostname,omitempty"`
}

type topicSpacesJSON struct {
	State    string `json:"state"`
	Hostname string `json:"hostname,omitempty"`
}

func (a *API) namespaceJSON() namespaceJSON {
	n := namespaceJSON{
		ID: a.namespaceID(), Name: a.o.Namespace, Type: provider + "/namespaces", Location: a.o.Location,
		SKU: skuJSON{"Standard", 1},
	}
	p := &n.Properties
	p.ProvisioningState, p.PublicAccess = "Succeeded", "Enabled"
	p.Topics.Hostname = a.o.HTTPHost()
	p.TopicSpaces.State = "Disabled"
	if p.TopicSpaces.Hostname = a.o.MQTTHost(); p.TopicSpaces.Hostname != "" {
		p.TopicSpaces.State = "Enabled"
	}
	return n
}

// namespace serves the namespace itself, which is set by the configuration.
func (a *API) namespace(q *request) error {
	switch q.r.Method {
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		q.w.Header().Set("Allow", "GET, HEAD")
		return fault.New(fault.MethodNotAllowed,
			"The namespace comes from the server's configuration and cannot be changed here; its clients, caCertificates and event subscriptions can.")
	}
	return q.by(methods{http.MethodGet: func(q *request) error { return q.json(http.StatusOK, a.namespaceJSON()) }})
}

func (a *API) listNamespaces(q *request) error {
	p, err := q.page()
	if err != nil {
		return err
	}
	value := []namespaceJSON{}
	if n := a.namespaceJSON(); p.after == "" && p.keep(n.Name) {
		value = append(value, n)
	}
	return q.json(http.StatusOK, map[string]any{"value": value})
}
