// Package conformance tests the server against every normative statement of
// MQTT 5.0 and MQTT 3.1.1 that binds a server and can be observed: byte by
// byte, over every transport. The statements are listed in testdata, the
// conversations beside them; docs/conformance.md, which
// `go test ./test/conformance -run List -update` writes, shows which tests
// which.
package conformance

import (
	"flag"
	"fmt"
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

// TestConformance runs every conversation over every driver of its group.
func TestConformance(t *testing.T) {
	drivers := servers(t)
	for _, v := range []struct{ version, name string }{{"5.0", "MQTT5"}, {"3.1.1", "MQTT311"}} {
		list, err := talks(v.version)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(v.name, func(t *testing.T) {
			var turn sync.Mutex // of the group alone
			for i, k := range list {
				for _, d := range drivers[k.group] {
					t.Run(strings.ReplaceAll(k.name(), "/", "_")+"/"+d.name, func(t *testing.T) {
						t.Parallel()
						if k.group == "alone" {
							turn.Lock()
							defer turn.Unlock()
						}
						tb := &table{t: t, d: d, v: v.version, unique: unique(v.version, d, i), names: names{}, seats: map[string]*client{}}
						defer func() {
							if t.Failed() {
								t.Logf("the conversation is at %s", k.where)
							}
						}()
						tb.play(k)
					})
				}
				if len(drivers[k.group]) == 0 {
					t.Errorf("%s: unknown group %q", k.where, k.group)
				}
			}
		})
	}
}

// unique is four letters and digits that no other conversation has.
func unique(version string, d *driver, i int) string {
	if version == "3.1.1" {
		i += 36 * 18
	}
	return fmt.Sprintf("%s%s", d.mark, padded(strconv.FormatInt(int64(i), 36)))
}

func padded(s string) string { return strings.Repeat("0", 3-len(s)) + s }
