package arm

import (
	"encoding/json"
	"net/http"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/registry"
)

// Bounds of the certificates that are issued, in days.
const (
	defaultDays = 90
	maxDays     = 825
)

// sideClients serves what the original's clients do not have.
func (a *API) sideClients(q *request, rest []string) error {
	switch {
	case len(rest) == 2 && rest[1] == "password":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.setPassword(q, rest[0]) }})
	case len(rest) == 2 && rest[1] == "certificate":
		return q.by(methods{http.MethodPost: func(q *request) error { return a.issueCertificate(q, rest[0]) }})
	}
	return noRoute()
}

// setPassword sets or, with null, removes a client's password.
func (a *API) setPassword(q *request, name string) error {
	if err := q.only(); err != nil {
		return err
	}
	body, err := q.needBody()
	if err != nil {
		return err
	}
	password, err := decodePassword(body)
	if err != nil {
		return err
	}
	// Hashing takes a while, in which the client may change; that change is kept.
	for range 32 {
		c, err := a.o.Registry.Client(name)
		if err != nil {
			return err
		}
		_, _, err = a.o.Registry.PutClient(q.r.Context(), name, registry.ClientSpec{
			AuthenticationName: c.AuthenticationName, Description: c.Description, State: string(c.State),
			ValidationScheme: string(c.ValidationScheme), AllowedThumbprints: c.AllowedThumbprints, Attributes: c.Attributes,
			Password: &password,
		}, registry.Condition{Revision: c.Revision})
		if isFault(err, fault.PreconditionFailed) {
			continue
		}
		if err != nil {
			return err
		}
		return q.empty(http.StatusNoContent)
	}
	return fault.New(fault.Conflict, "The client '%s' keeps changing; try again.", name)
}

// decodePassword returns "" for null.
func decodePassword(body []byte) (string, error) {
	var bad fault.List
	var password string
	o := newObject("", body, &bad)
	raw, ok := o.take("password")
	o.finish()
	switch {
	case !ok && len(bad) == 0:
		bad.Add(fault.At("password", "A password is required, or null to remove it."))
	case ok && !isNull(raw):
		if json.Unmarshal(raw, &password) != nil || password == "" {
			bad.Add(fault.At("password", "A string that is not empty is expected, or null to remove the password."))
		}
	}
	return password, bad.Err()
}

// issueCertificate makes a certificate with which a client can connect.
func (a *API) issueCertificate(q *request, name string) error {
	if err := q.only(); err != nil {
		return err
	}
	body, err := q.body()
	if err != nil {
		return err
	}
	days := json.Number("")
	var bad fault.List
	o := newObject("", body, &bad)
	o.into("days", &days, "A number")
	o.finish()
	n := int64(defaultDays)
	if days != "" {
		if n, err = days.Int64(); err != nil || n < 1 || n > maxDays {
			bad.Add(fault.At("days", "%.20s is not a number from 1 to %d.", days, maxDays))
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	cert, key, err := a.o.Registry.IssueCertificate(q.r.Context(), name, time.Duration(n)*24*time.Hour)
	if err != nil {
		return err
	}
	return q.json(http.StatusOK, struct {
		Certificate string `json:"certificate"`
		PrivateKey  string `json:"privateKey"`
		CA          string `json:"ca"`
	}{string(cert), string(key), string(a.o.ServerCA)})
}
