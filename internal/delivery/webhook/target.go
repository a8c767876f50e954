package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"rollcall/internal/fault"
)

// errTarget is why an address is not dialled.
var errTarget = errors.New("the address is not an allowed webhook target")

// Rules say which targets are allowed.
type Rules struct {
	// AllowHTTP permits http:// endpoints. Otherwise only https:// is.
	AllowHTTP bool
	// AllowPrivate permits loopback, private (fec0::/10 too) and shared
	// (100.64.0.0/10) addresses. Link-local, multicast, unspecified, broadcast and cloud
	// metadata addresses are never permitted.
	AllowPrivate bool
}

// maxURL is the longest endpoint URL that is accepted, in bytes.
const maxURL = 4096

// Parse judges an endpoint URL as far as that is possible without resolving
// its host. Target is the path of the member within the request.
func (r Rules) Parse(target, endpoint string) (*url.URL, *fault.Error) {
	if endpoint == "" {
		return nil, fault.At(target, "An endpoint URL is required.")
	}
	if len(endpoint) > maxURL {
		return nil, fault.At(target, "The endpoint URL is longer than %d bytes.", maxURL)
	}
	u, err := url.Parse(endpoint)
	if err != nil { // the error would quote the URL, which is a secret
		return nil, fault.At(target, "The endpoint URL cannot be parsed.")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && r.AllowHTTP:
	case u.Scheme == "http":
		return nil, fault.At(target, "The scheme of the endpoint URL must be https; http is allowed only where the server is configured for it.")
	default:
		return nil, fault.At(target, "The scheme of the endpoint URL must be https.")
	}
	switch {
	case u.Hostname() == "" || u.Opaque != "":
		return nil, fault.At(target, "The endpoint URL has no host.")
	case u.User != nil:
		return nil, fault.At(target, "The endpoint URL must not contain user information; use a delivery attribute mapping named Authorization.")
	case u.Fragment != "":
		return nil, fault.At(target, "The endpoint URL must not contain a fragment.")
	}
	u.RawQuery = encodeQuery(u.RawQuery)
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := r.check(ip); err != nil {
			return nil, fault.At(target, "%v: %v.", ip, err)
		}
	}
	if strings.EqualFold(u.Hostname(), "localhost") && !r.AllowPrivate {
		return nil, fault.At(target, "The host is localhost: %v.", errTarget)
	}
	return u, nil
}

// encodeQuery encodes what must not be in a query as it is (RFC 3986, 3.4) and
// what was meant is plain: blanks, letters beyond ASCII, quotes and the like. What
// is encoded already stays so.
func encodeQuery(query string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(query) {
		c := query[i]
		if c > ' ' && c < 0x7F && strings.IndexByte("\"<>\\^`{|}", c) < 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteString(string([]byte{'%', hex[c>>4], hex[c&15]}))
	}
	return b.String()
}

// metadata is the addresses at which clouds tell a machine its secrets and
// that are not link-local.
var metadata = [...]netip.Addr{
	netip.AddrFrom4([4]byte{168, 63, 129, 16}),                             // Azure wire server
	netip.AddrFrom4([4]byte{100, 100, 100, 200}),                           // Alibaba
	netip.AddrFrom4([4]byte{192, 0, 0, 192}),                               // Oracle
	netip.AddrFrom16([16]byte{0xfd, 0x00, 0x0e, 0xc2, 14: 0x02, 15: 0x54}), // AWS
	netip.AddrFrom16([16]byte{0xfd, 0x20, 0x00, 0xce, 14: 0x02, 15: 0x54}), // Google
	netip.AddrFrom16([16]byte{0xfd, 0x00, 0x00, 0x42, 15: 0x42}),           // Scaleway
}

var (
	shared     = netip.MustParsePrefix("100.64.0.0/10")
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")
	protocolV4 = netip.MustParsePrefix("192.0.0.0/24") // RFC 6890
	reserved   = netip.MustParsePrefix("240.0.0.0/4")

	// Of IPv6 what is global unicast may be dialled (RFC 4291, 2.4), and private
	// addresses where those may be; all else is refused, such as ::a.b.c.d,
	// ::ffff:0:a.b.c.d, the translation of 64:ff9b:1::/48, whose IPv4 address
	// cannot be told from the outside, and what is not assigned yet.
	globalUnicast = netip.MustParsePrefix("2000::/3")
	siteLocal     = netip.MustParsePrefix("fec0::/10")
	protocolV6    = netip.MustParsePrefix("2001::/23") // Teredo (2001::/32) and others that are no hosts, RFC 6890
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour     = netip.MustParsePrefix("2002::/16")
)

// check returns an errTarget unless ip may be dialled.
func (r Rules) check(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	switch { // addresses that carry an IPv4 address are judged by that
	case nat64.Contains(ip):
		b := ip.As16()
		return r.check(netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(ip):
		b := ip.As16()
		return r.check(netip.AddrFrom4([4]byte(b[2:6])))
	}
	for _, m := range metadata {
		if ip == m {
			return fmt.Errorf("%w (cloud metadata)", errTarget)
		}
	}
	switch {
	case !ip.IsValid(), ip.IsUnspecified(), thisNet.Contains(ip):
		return fmt.Errorf("%w (unspecified)", errTarget)
	case ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast():
		return fmt.Errorf("%w (link-local)", errTarget)
	case ip.IsMulticast(), ip.IsInterfaceLocalMulticast():
		return fmt.Errorf("%w (multicast)", errTarget)
	case reserved.Contains(ip), protocolV4.Contains(ip), protocolV6.Contains(ip):
		return fmt.Errorf("%w (reserved)", errTarget)
	case ip.Is6() && !globalUnicast.Contains(ip) && !ip.IsLoopback() && !private(ip):
		return fmt.Errorf("%w (not global unicast)", errTarget)
	case r.AllowPrivate:
		return nil
	case ip.IsLoopback():
		return fmt.Errorf("%w (loopback)", errTarget)
	case private(ip):
		return fmt.Errorf("%w (private)", errTarget)
	}
	return nil
}

func private(ip netip.Addr) bool {
	return ip.IsPrivate() || shared.Contains(ip) || siteLocal.Contains(ip)
}

// control is called with every address that is about to be dialled, after
// resolution: what is checked is what is dialled, so a name that resolves
// differently the second time gains nothing.
func (r Rules) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return errTarget
	}
	return r.check(ap.Addr())
}
