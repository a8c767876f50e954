package httpd

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"rollcall/internal/fault"
)

// authorize decides whether r may go on to its handler. Reads are free to
// peers on this machine; everything else needs the token. A token that is
// wrong is refused even where none is needed, so that its owner notices.
func (s *Server) authorize(r *http.Request, read bool) *fault.Error {
	local := s.Local(r)
	if s.opts.NoAuth && local {
		return nil
	}
	shown := r.Header.Values("Authorization")
	switch {
	case len(shown) > 1:
		return fault.New(fault.Unauthenticated, "There is more than one Authorization header.")
	case len(shown) == 1:
		if s.proves(shown[0]) {
			return nil
		}
		return fault.New(fault.Unauthenticated, "The Authorization header does not hold the bearer token of this server; rollcall keys show prints it.")
	case read && local:
		return nil
	}
	return fault.New(fault.Unauthenticated, "This needs the header Authorization: Bearer TOKEN; rollcall keys show prints the token.")
}

type trusted struct{}

// Trusted reports whether the sender of a request that this server hands to a
// handler may also see what is secret: a peer on this machine may read without
// a token, but not that.
func Trusted(ctx context.Context) bool { return ctx.Value(trusted{}) != nil }

// proves compares in a time that does not depend on the token.
func (s *Server) proves(header string) bool {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || s.opts.Token == "" {
		return false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

// isRead reports whether a method changes nothing.
func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }
