package app

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// publicURL is where the receiver behind an endpoint can open validation URLs,
// and the file of the CA certificate that it has to trust for that, if any. What
// is configured comes first. Else an endpoint on this machine, or one that does
// without TLS itself, is given plain HTTP if we serve that, because hardly any
// receiver knows our own CA; and one on another machine no loopback address of
// ours unless there is nothing else.
func (s *Server) publicURL(endpoint string) (base, trust string) {
	if s.cfg.Webhook.PublicURL != "" {
		return s.cfg.Webhook.PublicURL, ""
	}
	e := s.Endpoints()
	base = reachable(endpoint, e.HTTP, e.HTTPS)
	if strings.HasPrefix(base, "https:") {
		trust = s.CAFile()
	}
	return base, trust
}

// reachable picks one of our URLs for an endpoint, "" if there are none.
func reachable(endpoint string, plain, secure []string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		u = new(url.URL)
	}
	here := onLoopback(u)
	ours := slices.Concat(secure, plain)
	if here || u.Scheme == "http" {
		ours = slices.Concat(plain, secure)
	}
	for _, candidate := range ours {
		if c, err := url.Parse(candidate); err == nil && (here || !onLoopback(c)) {
			return candidate
		}
	}
	if len(ours) > 0 {
		return ours[0]
	}
	return ""
}

func onLoopback(u *url.URL) bool {
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Unmap().IsLoopback()
}
