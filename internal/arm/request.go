package arm

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"rollcall/internal/fault"
	"rollcall/internal/httpd"
)

// request is a request being answered.
type request struct {
	w     http.ResponseWriter
	r     *http.Request
	segs  []string // of the path, unescaped
	query url.Values
}

func newRequest(w http.ResponseWriter, r *http.Request) (*request, error) {
	q := &request{w: w, r: r}
	var err error
	if q.segs, err = segments(r.URL.EscapedPath()); err != nil {
		return q, err
	}
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return q, fault.New(fault.InvalidRequest, "The query string cannot be parsed.")
	}
	return q, nil
}

// segments splits an escaped path. Empty segments are passed over.
func segments(escaped string) ([]string, error) {
	var segs []string
	for s := range strings.SplitSeq(escaped, "/") {
		if s == "" {
			continue
		}
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil, fault.New(fault.InvalidRequest, "The path cannot be parsed.")
		}
		segs = append(segs, plain)
	}
	return segs, nil
}

// param returns a query parameter by its name in any case, "" if it is absent.
// Of several the first in the order of spelling counts.
func (q *request) param(name string) string {
	if v, ok := q.query[name]; ok {
		return v[0]
	}
	for _, have := range slices.Sorted(maps.Keys(q.query)) {
		if strings.EqualFold(have, name) {
			return q.query[have][0]
		}
	}
	return ""
}

// only refuses query parameters that are not among names.
func (q *request) only(names ...string) error {
	for _, have := range slices.Sorted(maps.Keys(q.query)) {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, have) }) {
			return fault.At(have, "This query parameter is not supported here.")
		}
	}
	return nil
}

// onlyOptions refuses system query options ($orderby and the like) that are
// not among names. Other parameters that nobody knows do nothing, as with the
// original.
func (q *request) onlyOptions(names ...string) error {
	for _, have := range slices.Sorted(maps.Keys(q.query)) {
		if strings.HasPrefix(have, "$") && !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, have) }) {
			return fault.At(have, "This query option is not supported here.")
		}
	}
	return nil
}

// methods are the handlers of one path. GET also answers HEAD.
type methods map[string]func(*request) error

// by calls the handler of the request's method.
func (q *request) by(m methods) error {
	method := q.r.Method
	if method == http.MethodHead && m[http.MethodHead] == nil {
		method = http.MethodGet
	}
	if f := m[method]; f != nil {
		return f(q)
	}
	allowed := slices.Collect(maps.Keys(m))
	if m[http.MethodGet] != nil && m[http.MethodHead] == nil {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	list := strings.Join(allowed, ", ")
	q.w.Header().Set("Allow", list)
	return fault.New(fault.MethodNotAllowed, "%.20s is not possible here. Possible: %s.", q.r.Method, list)
}

// json answers with v.
func (q *request) json(status int, v any) error {
	httpd.WriteJSON(q.w, status, v)
	return nil
}

// empty answers with a status alone.
func (q *request) empty(status int) error {
	q.w.WriteHeader(status)
	return nil
}

// base is scheme and host by which the caller reaches us.
func (q *request) base() string { return httpd.Scheme(q.r) + "://" + q.r.Host }
