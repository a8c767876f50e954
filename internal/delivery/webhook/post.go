package webhook

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"rollcall/internal/delivery"
	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// Attribute is one delivery attribute mapping: a header on each delivery whose
// value is fixed, or taken from the event.
type Attribute struct {
	Name string
	// SourceField is a dotted path into the event as delivered. Empty: the
	// value is Value.
	SourceField string
	Value       string
	Secret      bool // Value is not shown
}

// Dynamic reports whether the value comes from the event.
func (a Attribute) Dynamic() bool { return a.SourceField != "" }

// Destination is a webhook of one subscription. It implements
// delivery.Destination.
type Destination struct {
	client     *Client
	url        *url.URL
	schema     event.Schema
	attributes []Attribute
}

// Destination returns the destination for an endpoint. Attributes have been
// validated.
func (c *Client) Destination(endpoint string, s event.Schema, attributes []Attribute) (*Destination, error) {
	u, err := c.rules.Parse("endpointUrl", endpoint)
	if err != nil {
		return nil, err
	}
	return &Destination{client: c, url: u, schema: s, attributes: attributes}, nil
}

// Group implements delivery.Destination: events with different values of the
// dynamic headers do not share a request.
func (d *Destination) Group(e *event.Event) string {
	var b strings.Builder
	for _, a := range d.attributes {
		if a.Dynamic() {
			v, ok := d.schema.Lookup(e, a.SourceField)
			b.WriteString(strconv.Quote(v))
			b.WriteString(strconv.FormatBool(ok))
		}
	}
	return b.String()
}

// Deliver implements delivery.Destination.
func (d *Destination) Deliver(ctx context.Context, a delivery.Attempt) delivery.Result {
	payload := a.Schema.AppendBody(make([]byte, 0, sizeOf(a.Events)), a.Events, a.Batch)
	r := d.request(http.MethodPost, payload)
	first := a.Events[0]
	h := r.Header
	h["Content-Type"] = contentTypes(a.Schema, a.Batch)
	h["Accept-Encoding"] = encodings
	h["aeg-event-type"] = notification
	h["aeg-metadata-version"] = metadataVersion // all events come from the Event Grid schema
	values := []string{strings.ToUpper(a.Subscription), strconv.Itoa(a.Earlier), first.OutputID, dataVersion(a.Schema, first)}
	for i, name := range perAttempt { // one allocation for all
		h[name] = values[i : i+1 : i+1]
	}
	if a.Schema == event.CloudEvents {
		h["Origin"] = d.client.origins
		h["WebHook-Request-Origin"] = d.client.origins
	}
	d.decorate(h, first)

	got, err := d.client.do(ctx, r, false)
	if err != nil && got.status == 0 {
		return outcome(ctx, err)
	}
	res := delivery.OfStatus(got.status)
	if res.Verdict != delivery.Delivered {
		res.RetryAfter = retryAfter(got.header.Get("Retry-After"), d.client.clock.Steady())
		res.Detail = statusText(got.status)
	}
	return res
}

var (
	perAttempt      = [...]string{"aeg-subscription-name", "aeg-delivery-count", "aeg-output-event-id", "aeg-data-version"}
	notification    = []string{"Notification"}
	metadataVersion = []string{"1"}
	encodings       = []string{"gzip,deflate"}
	agents          = []string{userAgent}
)

func dataVersion(s event.Schema, e *event.Event) string {
	if s == event.CloudEvents { // CloudEvents has no such member
		return ""
	}
	return e.DataVersion
}

func contentTypes(s event.Schema, batch bool) []string { return []string{s.ContentType(batch)} }

func sizeOf(events []*event.Event) int {
	n := 2
	for _, e := range events {
		n += e.Size() + 64
	}
	return n
}

// request makes a request whose headers keep the spelling they are given.
func (d *Destination) request(method string, payload []byte) *http.Request {
	r := &http.Request{
		Method: method, URL: d.url, Host: d.url.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        make(http.Header, 12),
		ContentLength: int64(len(payload)),
	}
	r.Header["User-Agent"] = agents
	if len(payload) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(payload))
		// A connection that the server had closed is replaced unnoticed. That a
		// POST may be sent again has to be said; an empty list is no header.
		r.Header["X-Idempotency-Key"] = nil
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
	}
	return r
}

// decorate adds the attribute mappings. A dynamic one whose member is missing
// or unfit for a header is left out.
func (d *Destination) decorate(h http.Header, e *event.Event) {
	for _, a := range d.attributes {
		v := a.Value
		if a.Dynamic() {
			var ok bool
			if e == nil {
				continue
			}
			if v, ok = d.schema.Lookup(e, a.SourceField); !ok || !validHeaderValue(v) {
				continue
			}
		}
		for have := range h { // ours give way to nothing but are never doubled
			if strings.EqualFold(have, a.Name) {
				delete(h, have)
			}
		}
		name := a.Name
		if strings.EqualFold(name, "User-Agent") {
			name = "User-Agent" // net/http would add its own beside another spelling
		}
		h[name] = []string{v}
	}
}

// ValidateAttributes returns every mistake in the mappings of a subscription.
// Target is their path within the request.
func ValidateAttributes(target string, attributes []Attribute) fault.List {
	var bad fault.List
	if len(attributes) > 10 {
		bad.Add(fault.At(target, "%d mappings are more than 10.", len(attributes)))
	}
	seen := map[string]bool{}
	for i, a := range attributes {
		at := target + "[" + strconv.Itoa(i) + "]"
		name := strings.ToLower(a.Name)
		switch {
		case name == "":
			bad.Add(fault.At(at+".name", "A name is required."))
		case !validToken(name):
			bad.Add(fault.At(at+".name", "%q is not a header name.", a.Name))
		case strings.HasPrefix(name, "aeg-"):
			bad.Add(fault.At(at+".name", "Names that begin with aeg- are reserved."))
		case forbiddenHeaders[name]:
			bad.Add(fault.At(at+".name", "%q cannot be mapped.", a.Name))
		case seen[name]:
			bad.Add(fault.At(at+".name", "%q is mapped twice.", a.Name))
		}
		seen[name] = true
		switch {
		case a.Dynamic() && a.Secret:
			bad.Add(fault.At(at+".properties.isSecret", "Only a static value can be secret."))
		case !a.Dynamic() && a.Value == "":
			bad.Add(fault.At(at+".properties.value", "A value is required."))
		case len(a.Value) > 4096:
			bad.Add(fault.At(at+".properties.value", "The value is longer than 4096 bytes."))
		case !validHeaderValue(a.Value):
			bad.Add(fault.At(at+".properties.value", "The value contains control characters."))
		}
	}
	return bad
}

// forbiddenHeaders are those of the connection, the body and the protocol.
var forbiddenHeaders = map[string]bool{
	"connection": true, "keep-alive": true, "proxy-authenticate": true, "proxy-authorization": true,
	"proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
	"host": true, "content-length": true, "content-type": true, "expect": true,
	"origin": true, "webhook-request-origin": true, "webhook-request-callback": true, "webhook-request-rate": true,
}

func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7F || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
