// Package acceptance tests the whole product as its users meet it: real
// clients, real sockets, a real HTTP receiver.
package acceptance

import (
	"os"
	"testing"

	"rollcall/internal/servertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	servertest.CleanUp()
	os.Exit(code)
}
