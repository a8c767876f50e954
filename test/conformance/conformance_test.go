// Package conformance tests the server against every normative statement of
// MQTT 5.0 and MQTT 3.1.1 that binds a server and can be observed: byte by
// byte, over every transport. The statements are listed in testdata, the
// conversations beside them; docs/conformance.md, which
// `go test ./test/conformance -run List -update` writes, shows which tests
// which.
package conformance

import (
	"flag"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time of these tests is spent waiting.
	if f := flag.Lookup("test.parallel"); f != nil {
		if err := f.Value.Set("24"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestMQTT5 runs every conversation of MQTT 5.0 over every driver of its group.
func TestMQTT5(t *testing.T) { converse(t, "5.0") }

// TestMQTT311 does so for MQTT 3.1.1.
func TestMQTT311(t *testing.T) { converse(t, "3.1.1") }

func converse(t *testing.T, version string) {
	list, err := talks(version)
	if err != nil {
		t.Fatal(err)
	}
	drivers := servers(t)
	var turn sync.Mutex // of the group alone
	for i, k := range list {
		if len(drivers[k.group]) == 0 {
			t.Errorf("%s: unknown group %q", k.where, k.group)
		}
		for _, d := range drivers[k.group] {
			t.Run(strings.ReplaceAll(k.name(), "/", "_")+"/"+d.name, func(t *testing.T) {
				t.Parallel()
				if k.group == "alone" {
					turn.Lock()
					defer turn.Unlock()
				}
				defer func() {
					if t.Failed() {
						t.Logf("the conversation is at %s", k.where)
					}
				}()
				tb := &table{t: t, d: d, v: version, unique: unique(d, i), names: names{}, seats: map[string]*client{}}
				tb.play(k)
			})
		}
	}
}

// unique is four letters and digits that no other conversation has.
func unique(d *driver, i int) string {
	s := strconv.FormatInt(int64(i), 36)
	return d.mark + strings.Repeat("0", 3-len(s)) + s
}
