package arm

import (
	"net/http"
	"strconv"
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/httpd"
)

// side serves what is below /rollcall/v1. Its paths are exact, its query
// parameters strict.
func (a *API) side(q *request) error {
	if len(q.segs) < 3 || q.segs[1] != "v1" {
		return noRoute()
	}
	rest := q.segs[3:]
	switch q.segs[2] {
	case "sessions":
		return a.sideSessions(q, rest)
	case "refusals":
		if len(rest) == 0 {
			return q.by(methods{http.MethodGet: a.listRefusals})
		}
	case "retained":
		return a.sideRetained(q, rest)
	case "eventSubscriptions":
		return a.sideSubscriptions(q, rest)
	case "clients":
		return a.sideClients(q, rest)
	case "events":
		if len(rest) == 1 && rest[0] == "tail" {
			return q.by(methods{http.MethodGet: a.tail})
		}
	case "status":
		if len(rest) == 0 {
			return q.by(methods{http.MethodGet: a.status})
		}
	case "ca":
		if len(rest) == 0 {
			return q.by(methods{http.MethodGet: a.serverCA})
		}
	case "keys":
		if len(rest) == 0 {
			return q.by(methods{http.MethodPost: a.keys})
		}
	}
	return noRoute()
}

func noRoute() error {
	return fault.New(fault.NotFound,
		"There is nothing at this path. Below /rollcall/v1 there are status, sessions, refusals, retained, events/tail, eventSubscriptions, clients, ca and keys.")
}

func (a *API) status(q *request) error {
	if err := q.only(); err != nil {
		return err
	}
	return q.json(http.StatusOK, a.o.Status())
}

func (a *API) serverCA(q *request) error {
	if err := q.only(); err != nil {
		return err
	}
	if len(a.o.ServerCA) == 0 {
		return fault.New(fault.NotFound, "The server's certificate is not of a CA of its own.")
	}
	q.w.Header().Set("Content-Type", "application/x-pem-file")
	q.w.Header().Set("Content-Length", strconv.Itoa(len(a.o.ServerCA)))
	_, _ = q.w.Write(a.o.ServerCA) // if the peer is gone there is nobody to tell
	return nil
}

func (a *API) keys(q *request) error {
	if err := q.only(); err != nil {
		return err
	}
	if err := q.noBody(); err != nil {
		return err
	}
	return q.json(http.StatusOK, a.o.Keys())
}

// number reads a query parameter from 1 to most; def where it is absent.
func (q *request) number(name string, def, most uint64) (uint64, error) {
	s := q.param(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, fault.At(name, "'%.20s' is not a number from 1 to %d.", s, most)
	}
	return n, nil
}

// choice reads a query parameter that is one of a few words; the first is the
// default.
func (q *request) choice(name string, words ...string) (string, error) {
	s := q.param(name)
	if s == "" {
		return words[0], nil
	}
	for _, w := range words {
		if s == w && w != "" {
			return s, nil
		}
	}
	return "", fault.At(name, "'%.20s' is not one of: %s.", s, strings.Join(strings.Fields(strings.Join(words, " ")), ", "))
}

// isFault reports whether err is a fault of this code.
func isFault(err error, c fault.Code) bool {
	e, ok := fault.As(err)
	return ok && e.Code == c
}

var _ httpd.Exempter = (*API)(nil)
