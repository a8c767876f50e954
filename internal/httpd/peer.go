package httpd

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Local reports whether the peer that made r is on this machine: both ends of
// the connection are on loopback, no proxy says that it forwarded r, and none
// is known to stand in front.
func (s *Server) Local(r *http.Request) bool {
	if s.opts.BehindProxy {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback() && localAddr(r).IsLoopback() && !forwarded(r.Header)
}

// localAddr is the address that r's connection was made to, or the zero Addr.
func localAddr(r *http.Request) netip.Addr {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().WithZone("").Unmap()
}

// forwarded reports whether a proxy stands between the peer and us.
func forwarded(h http.Header) bool {
	for name := range h {
		switch {
		case strings.HasPrefix(name, "X-Forwarded-"):
			return true
		case proxyHeaders[name]:
			return true
		}
	}
	return false
}

// proxyHeaders are those, beside X-Forwarded-…, by which proxies and content
// delivery networks say for whom they ask.
var proxyHeaders = map[string]bool{
	"Forwarded": true, "Via": true, "X-Real-Ip": true, "True-Client-Ip": true, "X-Client-Ip": true, "X-Cluster-Client-Ip": true,
	"X-Original-Forwarded-For": true, "Cf-Connecting-Ip": true, "Fastly-Client-Ip": true, "Cdn-Loop": true, "X-Envoy-External-Address": true,
}

// Scheme is the scheme that the peer used. The word of a proxy counts: it
// decides on nothing but the URLs that the peer itself gets to read and on
// which pages are ours, and pages of others cannot set that header.
func Scheme(r *http.Request) string {
	switch v := strings.ToLower(r.Header.Get("X-Forwarded-Proto")); {
	case v == "http" || v == "https":
		return v
	case r.TLS != nil:
		return "https"
	}
	return "http"
}
