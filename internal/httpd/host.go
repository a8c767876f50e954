package httpd

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"rollcall/internal/fault"
)

// hosts are the names by which requests may address us, besides localhost,
// loopback addresses and the address that the connection was made to.
type hosts struct {
	names    map[string]bool // lower case
	suffixes []string        // lower case, with the leading dot
	addrs    map[netip.Addr]bool
}

func parseHosts(list []string) (hosts, error) {
	h := hosts{names: make(map[string]bool), addrs: make(map[netip.Addr]bool)}
	for _, s := range list {
		name, below := strings.CutPrefix(strings.ToLower(strings.TrimSuffix(s, ".")), "*.")
		if a, err := netip.ParseAddr(name); err == nil && !below {
			h.addrs[a.Unmap()] = true
			continue
		}
		if name == "" || strings.ContainsAny(name, "/:@ *[]") {
			return h, fmt.Errorf("httpd: %q is neither a host name nor an IP address", s)
		}
		if below {
			h.suffixes = append(h.suffixes, "."+name)
		} else {
			h.names[name] = true
		}
	}
	return h, nil
}

// checkHost refuses requests that are addressed to somebody else. A page whose
// name was made to resolve to our address (DNS rebinding) sends its own name.
func (s *Server) checkHost(r *http.Request) *fault.Error {
	if s.hosts.ours(r.Host, localAddr(r)) {
		return nil
	}
	return fault.New(fault.Misdirected,
		"This server is not known as %.100q. Use localhost or an address of its listener, or add the name to the hosts in its configuration.", r.Host)
}

func (h *hosts) ours(hostport string, local netip.Addr) bool {
	name := hostname(hostport)
	if a, err := netip.ParseAddr(name); err == nil {
		a = a.WithZone("").Unmap()
		return a.IsLoopback() || a == local || h.addrs[a]
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") || h.names[name] {
		return true
	}
	for _, suffix := range h.suffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// hostname is the host of a Host header in lower case, without port, brackets
// and the dot of the root.
func hostname(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
