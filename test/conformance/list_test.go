package conformance

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/conformance.md anew")

// clause is a normative statement.
type clause struct {
	id, level, binds, wording string
	why                       string // it is not tested; empty: it is
}

func readClauses(file string) ([]clause, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []clause
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.Split(line, "\t")
		if len(f) < 4 || len(f) > 5 {
			return nil, fmt.Errorf("%s:%d: %d fields", file, i+1, len(f))
		}
		if i == 0 {
			continue
		}
		c := clause{id: f[0], level: f[1], binds: f[2], wording: f[3]}
		if len(f) == 5 {
			c.why = f[4]
		}
		list = append(list, c)
	}
	return list, nil
}

const listFile = "../../docs/conformance.md"

// TestList checks that every clause is tested or has a reason why not, that no
// test names a clause there is not, and that docs/conformance.md says so.
func TestList(t *testing.T) {
	var out bytes.Buffer
	out.WriteString(`# Conformance to MQTT

Every normative statement of the two standards, in our own words, and the conversations in
[test/conformance](../test/conformance) that test it. They run byte by byte over TCP (with event loops and without), TLS and
WebSocket. ` + "`go test ./test/conformance -run List -update`" + ` writes this page.
`)
	for _, v := range []struct{ version, dir string }{{"5.0", "mqtt5"}, {"3.1.1", "mqtt311"}} {
		clauses, err := readClauses(filepath.Join("testdata", v.dir, "clauses.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		all, err := talks(v.version)
		if err != nil {
			t.Fatal(err)
		}
		writeList(t, &out, v.version, clauses, all)
	}
	if *update {
		if err := os.WriteFile(listFile, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(listFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, out.Bytes()) {
		t.Error("docs/conformance.md is stale: run go test ./test/conformance -run List -update")
	}
}

func writeList(t *testing.T, out *bytes.Buffer, version string, clauses []clause, all []*talk) {
	t.Helper()
	known := map[string]bool{}
	for _, c := range clauses {
		known[c.id] = true
	}
	tested, more := map[string][]string{}, []string{}
	names := map[string]bool{}
	for _, k := range all {
		if names[k.name()] {
			t.Errorf("%s: there is another %q", k.where, k.name())
		}
		names[k.name()] = true
		normative := false
		for _, id := range k.ids {
			if strings.HasPrefix(id, "MQTT-") {
				normative = true
				if !known[id] {
					t.Errorf("%s: there is no clause %s in MQTT %s", k.where, id, version)
				}
			}
			tested[id] = append(tested[id], k.title)
		}
		if !normative {
			more = append(more, fmt.Sprintf("| %s | %s |", strings.Join(k.ids, ", "), k.title))
		}
	}
	var rows bytes.Buffer
	done, others := 0, 0
	for _, c := range clauses {
		what := "tested: " + strings.Join(tested[c.id], "; ")
		switch n := len(tested[c.id]); {
		case n > 0 && c.why != "" && c.binds != "client":
			t.Errorf("%s of MQTT %s is tested, although it says %q", c.id, version, c.why)
		case n > 0:
			done++
		case c.why == "":
			t.Errorf("%s of MQTT %s (%s) is neither tested nor is there a reason", c.id, version, c.wording)
		default:
			others++
			what = "not tested: " + c.why
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s |\n", c.id, c.level, c.binds, c.wording, what)
	}
	fmt.Fprintf(out, "\n## MQTT %s\n\n%d statements: %d tested, %d not, each with its reason. %d conversations.\n\n", version, len(clauses), done, others, len(all))
	out.WriteString("| clause | level | binds | statement | |\n|---|---|---|---|---|\n")
	out.Write(rows.Bytes())
	if len(more) > 0 {
		fmt.Fprintf(out, "\nRules of MQTT %s that have no number of their own, and limits of the profiles:\n\n| section | test |\n|---|---|\n%s\n", version, strings.Join(more, "\n"))
	}
}

var idForm = regexp.MustCompile(`^MQTT-\d+\.\d+(\.\d+)?-\d+$`)

// TestClauseIDs checks the form of the ids, and that none is there twice.
func TestClauseIDs(t *testing.T) {
	for _, dir := range []string{"mqtt5", "mqtt311"} {
		clauses, err := readClauses(filepath.Join("testdata", dir, "clauses.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, c := range clauses {
			if !idForm.MatchString(c.id) || seen[c.id] {
				t.Errorf("%s: %s is ill-formed or there twice", dir, c.id)
			}
			seen[c.id] = true
		}
	}
}
