package httpd

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"rollcall/internal/fault"
)

// checkOrigin refuses what a page of another origin has a browser send, also
// requests for which browsers ask no permission first (simple POSTs, WebSocket
// handshakes). Clients that are no browsers send neither header.
func (s *Server) checkOrigin(r *http.Request) *fault.Error {
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

func crossSite() *fault.Error {
	return fault.New(fault.Forbidden, "Pages of other origins may not use this server.")
}

// sameOrigin compares an Origin header with what the request was addressed to.
func sameOrigin(origin, scheme, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
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
