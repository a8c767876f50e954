package app

import (
	"net"
	"testing"

	"rollcall/internal/config"
)

// Where another process has ::1 of the port, "localhost" is not half ours:
// clients that try ::1 first would show it their credentials.
func TestLocalhostIsTakenWhole(t *testing.T) {
	other, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("there is no IPv6 loopback:", err)
	}
	defer other.Close()
	_, port, _ := net.SplitHostPort(other.Addr().String())
	l, err := openListeners(config.Listen{HTTP: []string{"localhost:" + port}})
	if err == nil {
		l.close()
		t.Fatalf("listening on %v although [::1]:%s is another's", l.endpoints().HTTP, port)
	}
	// Whatever was opened has been closed.
	ln, err := net.Listen("tcp4", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}
