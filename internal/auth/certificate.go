package auth

import (
	"crypto/sha1" // #nosec: identifies a certificate that the operator chose; see Thumbprint
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
)

// Source is where in a certificate a name stands.
type Source string

// The sources, in the spelling of alternativeAuthenticationNameSources.
const (
	Subject Source = "ClientCertificateSubject"
	DNS     Source = "ClientCertificateDns"
	URI     Source = "ClientCertificateUri"
	IP      Source = "ClientCertificateIp"
	Email   Source = "ClientCertificateEmail"
)

// Sources lists all sources.
func Sources() []Source { return []Source{Subject, DNS, URI, IP, Email} }

// ParseSource returns the source of that name, in any case.
func ParseSource(s string) (Source, bool) {
	for _, known := range Sources() {
		if strings.EqualFold(s, string(known)) {
			return known, true
		}
	}
	return "", false
}

// CertificateNames returns the values of one field of a certificate in the
// order in which they stand there, none if the field is missing. A subject has
// several forms: the distinguished name as in RFC 4514 (the last part first), the
// same in the certificate's own order, each also with a blank after each comma,
// and the common name, unless that spells a distinguished name. Addresses are in their canonical text.
func CertificateNames(c *x509.Certificate, s Source) []string {
	var names []string
	switch s {
	case Subject:
		return subjectNames(c)
	case DNS:
		names = c.DNSNames
	case Email:
		names = c.EmailAddresses
	case URI:
		for _, u := range c.URIs {
			names = append(names, u.String())
		}
	case IP:
		for _, ip := range c.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				names = append(names, a.Unmap().String())
			}
		}
	}
	return nonEmpty(names)
}

func nonEmpty(names []string) []string {
	var out []string
	for _, n := range names {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

func subjectNames(c *x509.Certificate) []string {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(c.RawSubject, &seq); err != nil || len(rest) != 0 || len(seq) == 0 {
		return nil
	}
	parts := make([]string, len(seq)) // in the certificate's order
	for i := range seq {
		parts[i] = pkix.RDNSequence{seq[i]}.String()
	}
	reversed := slices.Clone(parts)
	slices.Reverse(reversed)
	var names []string
	for _, order := range [][]string{reversed, parts} {
		for _, comma := range []string{",", ", "} {
			if dn := strings.Join(order, comma); !slices.Contains(names, dn) {
				names = append(names, dn)
			}
		}
	}
	if cn := c.Subject.CommonName; cn != "" && !spellsDN(cn) {
		names = append(names, cn)
	}
	return names
}

// spellsDN reports whether a common name reads like a distinguished name. It must
// not count as one: who may choose the CN of a certificate may not be able to
// choose the other parts, and would pass for a client that is known by them.
func spellsDN(cn string) bool {
	kind, _, ok := strings.Cut(cn, "=")
	if !ok {
		return false
	}
	switch strings.ToUpper(strings.TrimSpace(kind)) { // as pkix writes them
	case "C", "O", "OU", "CN", "SERIALNUMBER", "L", "ST", "STREET", "POSTALCODE":
		return true
	}
	return strings.Trim(kind, " .0123456789") == "" // an object identifier
}

// CanonicalAddress returns the canonical text of an IP address, an IPv4 address
// mapped into IPv6 as IPv4. False for what is no address or has a zone.
func CanonicalAddress(s string) (string, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "", false
	}
	return a.Unmap().String(), true
}

// Thumbprint is the SHA-256 or SHA-1 hash of a certificate. SHA-1 is here
// because tools print it: it identifies a certificate that an operator chose,
// where only a second preimage would do harm.
type Thumbprint struct {
	size int
	sum  [sha256.Size]byte
}

// ParseThumbprint reads 64 (SHA-256) or 40 (SHA-1) hexadecimal digits in any
// case; colons and blanks among them do not matter.
func ParseThumbprint(s string) (Thumbprint, bool) {
	digits := make([]byte, 0, 2*sha256.Size)
	for i := range len(s) {
		switch c := s[i]; {
		case c == ':' || c == ' ' || c == '\t':
		case len(digits) == cap(digits):
			return Thumbprint{}, false
		default:
			digits = append(digits, c)
		}
	}
	if len(digits) != 2*sha256.Size && len(digits) != 2*sha1.Size {
		return Thumbprint{}, false
	}
	var t Thumbprint
	n, err := hex.Decode(t.sum[:], digits)
	if err != nil {
		return Thumbprint{}, false
	}
	t.size = n
	return t, true
}

// String returns the digits in upper case.
func (t Thumbprint) String() string { return strings.ToUpper(hex.EncodeToString(t.sum[:t.size])) }

// Matches reports whether t is the thumbprint of c.
func (t Thumbprint) Matches(c *x509.Certificate) bool {
	switch t.size {
	case sha256.Size:
		return sha256.Sum256(c.Raw) == t.sum
	case sha1.Size:
		return sha1.Sum(c.Raw) == [sha1.Size]byte(t.sum[:sha1.Size])
	}
	return false
}
