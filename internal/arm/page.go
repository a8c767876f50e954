package arm

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"

	"rollcall/internal/fault"
)

// page is what a list request asks for.
type page struct {
	top   int // 1 to 100
	after string
	keep  func(name string) bool
}

const defaultTop = 20

// page reads $top, $filter and $skiptoken.
func (q *request) page() (page, error) {
	p := page{top: defaultTop, keep: func(string) bool { return true }}
	var bad fault.List
	if err := q.onlyOptions("$top", "$filter", "$skiptoken"); err != nil {
		return p, err
	}
	if s := q.param("$top"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 100 {
			bad.Add(fault.At("$top", "'%.20s' is not a number from 1 to 100.", s))
		}
		p.top = n
	}
	if s := q.param("$filter"); s != "" {
		var err error
		if p.keep, err = parseFilter(s); err != nil {
			e, _ := fault.As(err)
			bad.Add(e)
		}
	}
	if s := q.param("$skiptoken"); s != "" {
		name, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(name) == 0 {
			bad.Add(fault.At("$skiptoken", "The token is not one of ours; follow nextLink as it is."))
		}
		p.after = string(name)
	}
	return p, bad.Err()
}

type listJSON struct {
	Value    []resourceJSON `json:"value"`
	NextLink string         `json:"nextLink,omitempty"`
}

// list answers with a page. more says that resources follow the last one.
func (q *request) list(value []resourceJSON, more bool) error {
	if value == nil {
		value = []resourceJSON{}
	}
	out := listJSON{Value: value}
	if more && len(value) > 0 {
		next := url.Values{}
		for _, name := range []string{"api-version", "$top", "$filter"} {
			if v := q.param(name); v != "" {
				next.Set(name, v)
			}
		}
		next.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(value[len(value)-1].Name)))
		out.NextLink = q.base() + q.r.URL.EscapedPath() + "?" + next.Encode()
	}
	return q.json(http.StatusOK, out)
}
