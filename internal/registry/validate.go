package registry

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"rollcall/internal/auth"
	"rollcall/internal/fault"
)

// Limits of resources.
const (
	maxAuthenticationName = 128  // characters
	maxDescription        = 4096 // bytes
	maxThumbprints        = 2
	maxAttributes         = 4096 // bytes of JSON, exclusive
	maxPassword           = 1024 // bytes
)

var (
	clientName    = regexp.MustCompile(`^[-a-zA-Z0-9:._]{1,128}$`)
	caName        = regexp.MustCompile(`^[-a-zA-Z0-9]{3,50}$`)
	attributeName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
)

const (
	pathName        = "name"
	pathAuth        = "properties.authenticationName"
	pathDescription = "properties.description"
	pathState       = "properties.state"
	pathScheme      = "properties.clientCertificateAuthentication.validationScheme"
	pathThumbprints = "properties.clientCertificateAuthentication.allowedThumbprints"
	pathAttributes  = "properties.attributes"
	pathPassword    = "properties.password"
)

// ValidateClientName returns what is wrong with the name of a client resource,
// or nil.
func ValidateClientName(name string) *fault.Error {
	if !clientName.MatchString(name) {
		return fault.At(pathName, "A client's name is 1 to 128 letters, digits, '-', ':', '.' and '_'.")
	}
	return nil
}

// ValidateCAName returns what is wrong with the name of a CA certificate
// resource, or nil.
func ValidateCAName(name string) *fault.Error {
	if !caName.MatchString(name) {
		return fault.At(pathName, "A CA certificate's name is 3 to 50 letters, digits and '-'.")
	}
	return nil
}

// states and schemes are what may be written, in any case.
func parseState(s string) (State, bool) {
	for _, known := range []State{Enabled, Disabled} {
		if strings.EqualFold(s, string(known)) {
			return known, true
		}
	}
	return Enabled, s == ""
}

func parseScheme(s string) (Scheme, bool) {
	for _, known := range schemes {
		if strings.EqualFold(s, string(known)) {
			return known, true
		}
	}
	return SubjectMatches, s == ""
}

var schemes = []Scheme{SubjectMatches, DNSMatches, URIMatches, IPMatches, EmailMatches, ThumbprintMatch}

// normalize makes a client of a spec, with defaults filled in but for the
// authentication name, and collects every mistake.
func (s ClientSpec) normalize(name string, passwords bool) (Client, error) {
	var bad fault.List
	bad.Add(ValidateClientName(name))
	c := Client{
		Name: name, AuthenticationName: s.AuthenticationName, Description: s.Description,
		ProvisioningState: Succeeded,
	}
	if s.AuthenticationName != "" {
		bad.Add(checkAuthenticationName(s.AuthenticationName))
	}
	if len(s.Description) > maxDescription || !utf8.ValidString(s.Description) {
		bad.Add(fault.At(pathDescription, "The description is more than %d bytes or not UTF-8.", maxDescription))
	}
	var ok bool
	if c.State, ok = parseState(s.State); !ok {
		bad.Add(fault.At(pathState, "'%s' is neither Enabled nor Disabled.", s.State))
	}
	if c.ValidationScheme, ok = parseScheme(s.ValidationScheme); !ok {
		bad.Add(fault.At(pathScheme, "'%s' is not one of %v.", s.ValidationScheme, schemes))
	} else {
		bad = append(bad, checkThumbprints(c.ValidationScheme, s.AllowedThumbprints)...)
	}
	if len(s.AllowedThumbprints) > 0 {
		c.AllowedThumbprints = append(c.AllowedThumbprints, s.AllowedThumbprints...)
	}
	c.Attributes = normalizeAttributes(s.Attributes, &bad)
	if s.Password != nil {
		switch {
		case !passwords && *s.Password != "":
			bad.Add(fault.At(pathPassword, "Clients have no passwords in this profile."))
		case len(*s.Password) > maxPassword:
			bad.Add(fault.At(pathPassword, "The password is more than %d bytes.", maxPassword))
		}
	}
	return c, bad.Err()
}

func checkAuthenticationName(s string) *fault.Error {
	switch {
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return fault.At(pathAuth, "The authentication name is not UTF-8 or has a NUL.")
	case utf8.RuneCountInString(s) > maxAuthenticationName:
		return fault.At(pathAuth, "The authentication name has more than %d characters.", maxAuthenticationName)
	}
	return nil
}

func checkThumbprints(s Scheme, list []string) fault.List {
	var bad fault.List
	switch {
	case s != ThumbprintMatch && len(list) > 0:
		bad.Add(fault.At(pathThumbprints, "Thumbprints are allowed with the scheme ThumbprintMatch only."))
		return bad
	case s == ThumbprintMatch && len(list) == 0:
		bad.Add(fault.At(pathThumbprints, "The scheme ThumbprintMatch needs one or two thumbprints."))
	case len(list) > maxThumbprints:
		bad.Add(fault.At(pathThumbprints, "%d thumbprints are more than %d.", len(list), maxThumbprints))
		return bad
	}
	for _, t := range list {
		if _, ok := auth.ParseThumbprint(t); !ok || len(t) > 256 {
			bad.Add(fault.At(pathThumbprints, "%.64q is not a SHA-256 (64 digits) or SHA-1 (40 digits) hash in hexadecimal.", t))
		}
	}
	return bad
}

// normalizeAttributes returns attributes with values of the four types that a
// Client has, never nil.
func normalizeAttributes(in map[string]any, bad *fault.List) map[string]any {
	out := make(map[string]any, len(in))
	for _, key := range slices.Sorted(maps.Keys(in)) { // mistakes come in the same order every time
		v := in[key]
		if !attributeName.MatchString(key) {
			bad.Add(fault.At(pathAttributes, "The attribute name %.64q is not made of letters, digits and underscores.", key))
			continue
		}
		value, ok := normalizeAttribute(v)
		if !ok {
			bad.Add(fault.At(pathAttributes+"."+clip(key), "The value is not a string, a boolean, a 64-bit integer or an array of strings."))
			continue
		}
		out[key] = value
	}
	if text, err := json.Marshal(out); err != nil || len(text) >= maxAttributes {
		bad.Add(fault.At(pathAttributes, "The attributes take %d bytes of JSON; they must take less than %d.", len(text), maxAttributes))
	}
	return out
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}

func normalizeAttribute(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, utf8.ValidString(v)
	case bool:
		return v, true
	case int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case json.Number:
		n, err := v.Int64()
		return n, err == nil
	case float64:
		const exact = 1 << 53 // beyond it, a float64 may not be what was written
		n := int64(v)
		return n, v >= -exact && v <= exact && float64(n) == v
	case []string:
		list := append([]string{}, v...)
		for _, s := range list {
			if !utf8.ValidString(s) {
				return nil, false
			}
		}
		return list, true
	case []any:
		list := make([]string, 0, len(v))
		for _, item := range v {
			s, ok := item.(string)
			if !ok || !utf8.ValidString(s) {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}
