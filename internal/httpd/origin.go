package httpd

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"rollcall/internal/fault"
)

// checkOrigin refuses what a page of another origin has a browser send, also
// requests for which browsers ask no permission first (simple POSTs, WebSocket
// handshakes). Clients that are no browsers send neither header.
//
// Pages of the origins in Options may connect to MQTT, and to nothing else.
func (s *Server) checkOrigin(r *http.Request) *fault.Error {
	if s.isMQTT(r) && s.origins.allow(r.Header.Values("Origin")) {
		return nil
	}
	if origins := r.Header.Values("Origin"); len(origins) > 0 {
		if len(origins) > 1 || !sameOrigin(origins[0], Scheme(r), r.Host) {
			return crossSite()
		}
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		switch site {
		case "same-origin", "none": // none: typed, or from a bookmark
		default:
			if !s.followed(r) {
				return crossSite()
			}
		}
	}
	return nil
}

// followed reports whether a person followed a link to a page that proves its
// right by itself, such as a validation URL in a mail.
func (s *Server) followed(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" &&
		r.Header.Get("Sec-Fetch-Dest") == "document" && s.exempt(r)
}

// origins are those whose pages may connect to MQTT.
type origins struct {
	any  bool
	each map[string]bool // scheme://host:port
}

func parseOrigins(list []string) (origins, error) {
	o := origins{each: make(map[string]bool)}
	for _, s := range list {
		u, err := url.Parse(s)
		switch {
		case s == "*":
			o.any = true
		case err != nil || !isOrigin(u):
			return o, fmt.Errorf("httpd: %q is no origin: write scheme://host or scheme://host:port, or * for every origin", s)
		default:
			o.each[authority(u.Scheme, u.Host)] = true
		}
	}
	return o, nil
}

// allow reports whether an Origin header, of which there must be one, names one
// of o.
func (o origins) allow(header []string) bool {
	if len(header) != 1 {
		return false
	}
	if o.any {
		return true
	}
	u, err := url.Parse(header[0])
	return err == nil && isOrigin(u) && o.each[authority(u.Scheme, u.Host)]
}

// isOrigin reports whether u has what an origin has, and nothing else.
func isOrigin(u *url.URL) bool {
	return u.Scheme != "" && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.Opaque == ""
}

func crossSite() *fault.Error {
	return fault.New(fault.Forbidden, "Pages of other origins may not use this server.")
}

// sameOrigin compares an Origin header with what the request was addressed to.
func sameOrigin(origin, scheme, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || !isOrigin(u) {
		return false // "null" among them
	}
	return authority(u.Scheme, u.Host) == authority(scheme, host)
}

// authority is scheme, host and port with defaults filled in.
func authority(scheme, host string) string {
	scheme = strings.ToLower(scheme)
	port := "80"
	if scheme == "https" {
		port = "443"
	}
	if _, p, err := net.SplitHostPort(host); err == nil && p != "" {
		port = p
	}
	return scheme + "://" + net.JoinHostPort(hostname(host), port)
}
