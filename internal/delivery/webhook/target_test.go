package webhook_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
)

// The query of an endpoint goes out as a well-formed one, and as it was if it
// is one.
func TestQueryIsEncoded(t *testing.T) {
	for given, want := range map[string]string{
		"code=a b":              "code=a%20b",
		"code=\u00e4":           "code=%C3%A4",
		"code=%C3%A4+b%20c&d=e": "code=%C3%A4+b%20c&d=e",
		`q={"a":<1>}`:           "q=%7B%22a%22:%3C1%3E%7D",
		"sig=a/b+c==&x='y'":     "sig=a/b+c==&x='y'",
	} {
		got := make(chan string, 1)
		url := rawServer(t, func(_ int, c *net.TCPConn) {
			r := bufio.NewReader(c)
			line, _ := r.ReadString('\n')
			got <- strings.TrimSpace(line)
			_, _ = io.WriteString(c, noContent)
		})
		d := destination(t, newClient(t, webhook.Options{Rules: local}), url+"?"+given, event.EventGrid)
		deliver(t, d, attempt(10))
		if line := <-got; line != "POST /?"+want+" HTTP/1.1" {
			t.Errorf("%q goes out as %q, want the query %q", given, line, want)
		}
	}
}
