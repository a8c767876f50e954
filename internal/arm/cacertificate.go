package arm

import (
	"net/http"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/registry"
	"rollcall/internal/store"
)

// The JSON of a CA certificate's properties.
type caJSON struct {
	EncodedCertificate string `json:"encodedCertificate"`
	IssueTime          string `json:"issueTimeInUtc"`
	ExpiryTime         string `json:"expiryTimeInUtc"`
	Description        string `json:"description,omitempty"`
	ProvisioningState  string `json:"provisioningState"`
}

func (a *API) caResource(c registry.CA) resourceJSON {
	return resourceJSON{
		ID: a.namespaceID() + "/caCertificates/" + c.Name, Name: c.Name, Type: provider + "/namespaces/caCertificates",
		Properties: caJSON{
			EncodedCertificate: c.EncodedCertificate, IssueTime: c.IssueTime.UTC().Format(time.RFC3339),
			ExpiryTime: c.ExpiryTime.UTC().Format(time.RFC3339), Description: c.Description, ProvisioningState: c.ProvisioningState,
		},
		System: systemData(c.CreatedOn, c.UpdatedOn), revision: c.Revision,
	}
}

// caCertificate serves one CA certificate.
func (a *API) caCertificate(q *request, name string) error {
	return q.by(methods{
		http.MethodGet: func(q *request) error {
			c, err := a.o.Registry.CA(name)
			if err != nil {
				return err
			}
			return q.resource(http.StatusOK, a.caResource(c))
		},
		http.MethodPut: func(q *request) error { return a.putCA(q, name) },
		http.MethodDelete: func(q *request) error {
			c, err := a.caCondition(q, name)
			if err != nil {
				return err
			}
			return q.deleted(a.o.Registry.DeleteCA(q.r.Context(), name, c))
		},
	})
}

func (a *API) putCA(q *request, name string) error {
	cond, err := a.caCondition(q, name)
	if err != nil {
		return err
	}
	body, err := q.needBody()
	if err != nil {
		return err
	}
	spec, err := decodeCA(body)
	if err != nil {
		return err
	}
	c, created, err := a.o.Registry.PutCA(q.r.Context(), name, spec, cond)
	if err != nil {
		return err
	}
	return q.put(created, a.caResource(c))
}

func (a *API) caCondition(q *request, name string) (registry.Condition, error) {
	c, err := q.condition(func() (store.Revision, error) {
		c, err := a.o.Registry.CA(name)
		return c.Revision, err
	})
	return registry.Condition{Revision: c.revision, Absent: c.absent}, err
}

// decodeCA reads the body of a PUT.
func decodeCA(body []byte) (registry.CASpec, error) {
	var s registry.CASpec
	var bad fault.List
	properties, err := envelope(body)
	if err != nil {
		return s, err
	}
	o := newObject("properties", properties, &bad)
	for _, name := range []string{"provisioningState", "issueTimeInUtc", "expiryTimeInUtc"} {
		o.take(name)
	}
	o.into("description", &s.Description, "A string")
	o.into("encodedCertificate", &s.EncodedCertificate, "A string")
	o.finish()
	return s, bad.Err()
}

func (a *API) listCACertificates(q *request) error {
	p, err := q.page()
	if err != nil {
		return err
	}
	found, more := a.o.Registry.CAs(p.after, p.top, p.keep)
	value := make([]resourceJSON, len(found))
	for i, c := range found {
		value[i] = a.caResource(c)
	}
	return q.list(value, more)
}
