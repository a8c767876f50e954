package arm_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// TestExchanges plays the exchanges in testdata against the real thing. A file
// is a sequence of
//
//	### what this is about
//	@connect SESSION, @leave SESSION, @await SUBSCRIPTION STATE
//	METHOD path
//	Header: value
//
//	body
//	<<<
//	answer
//
// with placeholders in braces for what differs from run to run.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/*.http")
	if err != nil || len(files) == 0 {
		t.Fatalf("no exchanges: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".http"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := newPlayer(t)
			var out strings.Builder
			for i, ex := range strings.Split("\n"+string(text), "\n### ") {
				if i == 0 {
					continue // before the first
				}
				request, _, _ := strings.Cut(ex, "\n<<<")
				request = strings.TrimRight(request, "\n")
				out.WriteString("### " + request + "\n<<<\n" + p.play(request) + "\n")
			}
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got, want := out.String(), string(text); got != want {
				t.Errorf("%s: run with -update and look at the difference\n%s", file, difference(want, got))
			}
		})
	}
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		line := func(l []string) string {
			if i < len(l) {
				return l[i]
			}
			return "(end)"
		}
		if line(w) != line(g) {
			return fmt.Sprintf("line %d\n want %s\n  got %s", i+1, line(w), line(g))
		}
	}
	return ""
}

// player plays one file.
type player struct {
	f                      *fixture
	hook, silent, refusing *receiver
	etag, op               string
}

func newPlayer(t *testing.T) *player {
	return &player{
		f: newFixture(t), hook: newReceiver(t, 200, true), silent: newReceiver(t, 200, false), refusing: newReceiver(t, 403, false),
	}
}

var certificate, _ = os.ReadFile("testdata/ca.pem")

// fill puts values in place of placeholders.
func (p *player) fill(s string) string {
	pem, _ := json.Marshal(string(certificate))
	secret := ""
	if t := p.silent.token.Load(); t != nil {
		secret = *t
	}
	return strings.NewReplacer(
		"{ns}", ns, "{group}", group, "{sub}", subID, "{v}", "api-version=2025-02-15", "{base}", p.f.base,
		"{hook}", p.hook.URL, "{silent}", p.silent.URL, "{refusing}", p.refusing.URL,
		"{etag}", p.etag, "{op}", p.op, "{pem}", string(pem), "{secret}", secret, "{long}", strings.Repeat("x", 200),
	).Replace(s)
}

var (
	isEtag = regexp.MustCompile(`"[0-9]+"`)
	isHash = regexp.MustCompile(`(\{(?:hook|silent|refusing)\}/#)[0-9a-f]{12}`)
)

// blank puts placeholders in place of values.
func (p *player) blank(s string) string {
	pem, _ := json.Marshal(string(certificate))
	return isHash.ReplaceAllString(strings.NewReplacer(
		p.f.base, "{base}", p.hook.URL, "{hook}", p.silent.URL, "{silent}", p.refusing.URL, "{refusing}",
		string(pem), `"{pem}"`,
	).Replace(s), "$1{hash}")
}

func (p *player) play(text string) string {
	lines := strings.Split(text, "\n")[1:]
	for ; len(lines) > 0 && strings.HasPrefix(lines[0], "@"); lines = lines[1:] {
		words := strings.Fields(lines[0])
		switch words[0] {
		case "@connect":
			p.f.connect(words[1])
		case "@leave":
			p.f.leave(words[1])
		case "@await":
			p.f.await(words[1], words[2])
		default:
			p.f.t.Fatalf("unknown command %s", lines[0])
		}
	}
	if len(lines) == 0 {
		p.f.t.Fatalf("no request in %q", text)
	}
	method, path, _ := strings.Cut(lines[0], " ")
	var headers []string
	body := ""
	for i, line := range lines[1:] {
		if line == "" {
			body = strings.Join(lines[i+2:], "\n")
			break
		}
		headers = append(headers, p.fill(line))
	}
	status, h, answer := p.f.do(method, p.fill(path), p.fill(body), headers...)
	var out strings.Builder
	fmt.Fprintf(&out, "%d\n", status)
	for _, name := range []string{"Allow", "Azure-AsyncOperation", "ETag", "Retry-After", "WWW-Authenticate", "Content-Type"} {
		v := h.Get(name)
		switch {
		case v == "" || name == "Content-Type" && strings.HasPrefix(v, "application/json"):
			continue
		case name == "ETag":
			p.etag = v
			v = isEtag.ReplaceAllString(v, "{etag}")
		case name == "Azure-AsyncOperation":
			p.op = strings.TrimPrefix(v, p.f.base)
		}
		out.WriteString(name + ": " + p.blank(v) + "\n")
	}
	if strings.HasPrefix(h.Get("Content-Type"), "application/json") && answer != "" {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(strings.TrimSpace(answer)), "", "  "); err != nil {
			p.f.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
		answer = b.String() + "\n"
	}
	return out.String() + p.blank(answer)
}
