package app_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// forbidden are the imports that would undo the design, each with the reason.
// A package matches a pattern that is its path below internal, or a prefix of it
// that ends with a slash.
var forbidden = []struct{ from, to, why string }{
	{"mqtt/", "grid", "the broker does not know the grid: it runs without events"},
	{"mqtt/", "sysevent", "the broker does not know events: a bridge in app stages them"},
	{"mqtt/", "delivery", "the broker does not know delivery"},
	{"mqtt/", "presence", "the broker declares what it needs of presence; app bridges"},
	{"mqtt/", "registry", "the broker declares what it needs of the registry; app bridges"},
	{"mqtt/", "store", "what MQTT must not lose is mqtt/stored's, and the broker only passes its batches on"},
	{"grid", "mqtt/", "the grid does not know MQTT: it serves any source of events"},
	{"delivery", "mqtt/", "delivery does not know MQTT"},
	{"delivery", "grid", "delivery learns of subscriptions through its own types"},
	{"presence", "mqtt/", "the ledger serves other protocols than MQTT too"},
	{"presence", "grid", "the ledger stages events through an interface"},
	{"presence", "sysevent", "the ledger does not know the events' JSON"},
	{"presence", "registry", "the ledger does not know who may connect"},
	{"registry", "mqtt/", "the registry judges proofs, not packets"},
	{"registry", "presence", "the registry does not know who is here"},
	{"registry", "grid", "the registry stages events through an interface"},
	{"audit", "", "the auditor shares no code with what it audits"},
	{"event", "", "the envelope stands alone"},
	{"fault", "", "errors stand alone"},
	{"disconnect", "", "the vocabulary of endings stands alone"},
	{"clock", "", "the clock stands alone"},
	{"task", "", "goroutines with an owner stand alone"},
	{"mqtt/packet", "", "the codec stands alone, to be fuzzed alone"},
	{"mqtt/topic", "", "topics stand alone"},
	{"arm", "mqtt/", "the control plane does not know MQTT"},
	{"httpd", "", "serving HTTP safely needs no business"},
	{"cli", "store", "commands talk HTTP to a server like any other client"},
	{"cli", "presence", "commands talk HTTP to a server like any other client"},
	{"cli", "registry", "commands talk HTTP to a server like any other client"},
	{"cli", "grid", "commands talk HTTP to a server like any other client"},
}

// exceptions are imports within internal that stand-alone packages may have.
var exceptions = map[string]bool{
	"clock/clocktest→clock": true,
	"httpd→fault":           true, "httpd→clock": true,
	"mqtt/stored→store": true, "mqtt/stored→store/setaside": true, "mqtt/broker→store": true,
}

// pureStandardLibrary lists what packages that do no I/O must not import.
var impure = []string{"net", "net/http", "os", "time/tzdata", "os/exec", "syscall"}

var pure = []string{"event", "filter", "fault", "disconnect", "sysevent", "mqtt/packet", "mqtt/topic", "mqtt/session"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "rollcall/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

const prefix = "rollcall/internal/"

func matches(path, pattern string) bool {
	switch {
	case pattern == "":
		return true
	case strings.HasSuffix(pattern, "/"):
		return strings.HasPrefix(path, pattern)
	}
	return path == pattern || strings.HasPrefix(path, pattern+"/")
}

func TestForbiddenImports(t *testing.T) {
	all := packages(t)
	if len(all) < 15 {
		t.Fatalf("only %d packages were listed", len(all))
	}
	for _, p := range all {
		from, ok := strings.CutPrefix(p.ImportPath, prefix)
		if !ok {
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, prefix)
			for _, f := range forbidden {
				if ours && matches(from, f.from) && matches(to, f.to) && !exceptions[from+"→"+to] {
					t.Errorf("%s imports %s: %s", from, to, f.why)
				}
			}
			for _, name := range pure {
				for _, bad := range impure {
					if from == name && imp == bad {
						t.Errorf("%s imports %s: it does no I/O", from, imp)
					}
				}
			}
		}
	}
}

// TestForbiddenIsNotEmpty: each rule names packages that exist, so that a
// renamed package does not take its rule out of force.
func TestForbiddenNamesExist(t *testing.T) {
	all := packages(t)
	exists := func(pattern string) bool {
		for _, p := range all {
			if path, ok := strings.CutPrefix(p.ImportPath, prefix); ok && matches(path, pattern) {
				return true
			}
		}
		return false
	}
	for _, f := range forbidden {
		if !exists(f.from) || !exists(f.to) {
			t.Errorf("the rule %q ↛ %q names a package that does not exist", f.from, f.to)
		}
	}
}
