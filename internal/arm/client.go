package arm

import (
	"net/http"

	"rollcall/internal/fault"
	"rollcall/internal/registry"
	"rollcall/internal/store"
)

// The JSON of a client's properties.
type clientJSON struct {
	AuthenticationName string          `json:"authenticationName"`
	Certificate        certificateJSON `json:"clientCertificateAuthentication"`
	State              registry.State  `json:"state"`
	Attributes         map[string]any  `json:"attributes"`
	Description        string          `json:"description,omitempty"`
	ProvisioningState  string          `json:"provisioningState"`
}

type certificateJSON struct {
	Scheme      registry.Scheme `json:"validationScheme"`
	Thumbprints []string        `json:"allowedThumbprints,omitempty"`
}

func (a *API) clientResource(c registry.Client) resourceJSON {
	return resourceJSON{
		ID: a.namespaceID() + "/clients/" + c.Name, Name: c.Name, Type: provider + "/namespaces/clients",
		Properties: clientJSON{
			AuthenticationName: c.AuthenticationName, Certificate: certificateJSON{c.ValidationScheme, c.AllowedThumbprints},
			State: c.State, Attributes: c.Attributes, Description: c.Description, ProvisioningState: c.ProvisioningState,
		},
		System: systemData(c.CreatedOn, c.UpdatedOn), revision: c.Revision,
	}
}

// client serves one client.
func (a *API) client(q *request, name string) error {
	return q.by(methods{
		http.MethodGet: func(q *request) error {
			c, err := a.o.Registry.Client(name)
			if err != nil {
				return err
			}
			return q.resource(http.StatusOK, a.clientResource(c))
		},
		http.MethodPut: func(q *request) error { return a.putClient(q, name) },
		http.MethodDelete: func(q *request) error {
			c, err := a.clientCondition(q, name)
			if err != nil {
				return err
			}
			return q.deleted(a.o.Registry.DeleteClient(q.r.Context(), name, c))
		},
	})
}

func (a *API) putClient(q *request, name string) error {
	cond, err := a.clientCondition(q, name)
	if err != nil {
		return err
	}
	body, err := q.needBody()
	if err != nil {
		return err
	}
	spec, err := decodeClient(body)
	if err != nil {
		return err
	}
	c, created, err := a.o.Registry.PutClient(q.r.Context(), name, spec, cond)
	if err != nil {
		return err
	}
	return q.put(created, a.clientResource(c))
}

func (a *API) clientCondition(q *request, name string) (registry.Condition, error) {
	c, err := q.condition(func() (store.Revision, error) {
		c, err := a.o.Registry.Client(name)
		return c.Revision, err
	})
	return registry.Condition{Revision: c.revision, Absent: c.absent}, err
}

// decodeClient reads the body of a PUT.
func decodeClient(body []byte) (registry.ClientSpec, error) {
	var s registry.ClientSpec
	var bad fault.List
	properties, err := envelope(body)
	if err != nil {
		return s, err
	}
	o := newObject("properties", properties, &bad)
	o.take("provisioningState")
	o.into("authenticationName", &s.AuthenticationName, "A string")
	o.into("description", &s.Description, "A string")
	o.into("state", &s.State, "A string")
	o.into("attributes", &s.Attributes, "A JSON object")
	o.refuse("password", "Passwords are set with POST /rollcall/v1/clients/{name}/password.")
	if raw, ok := o.take("clientCertificateAuthentication"); ok {
		in := newObject(o.at("clientCertificateAuthentication"), raw, &bad)
		in.into("validationScheme", &s.ValidationScheme, "A string")
		in.into("allowedThumbprints", &s.AllowedThumbprints, "An array of strings")
		in.finish()
	}
	o.finish()
	return s, bad.Err()
}

func (a *API) listClients(q *request) error {
	p, err := q.page()
	if err != nil {
		return err
	}
	found, more := a.o.Registry.Clients(p.after, p.top, p.keep)
	value := make([]resourceJSON, len(found))
	for i, c := range found {
		value[i] = a.clientResource(c)
	}
	return q.list(value, more)
}
