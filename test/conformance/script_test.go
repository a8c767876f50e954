package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A talk is one conversation: what which client sends, and what it must get,
// byte by byte. Files in testdata hold them:
//
//	group open
//
//	== MQTT-3.12.4-1 | a ping is answered
//	a connect5
//	a > C0 00
//	a < D0 00
//
// The group is where it runs: open (all drivers), alone (a server without other
// conversations), tight (narrow limits) or azure. The steps are described at
// their functions in talk_test.go. Every client that is still connected at the
// end is pinged: nothing but what the talk says may have come to it.
type talk struct {
	version string // "5.0" or "3.1.1"
	group   string
	ids     []string // clauses; numbers of sections where a rule has no clause
	title   string
	where   string // file and line
	steps   []step
	run     func(*table) // instead of steps
}

type step struct {
	line int
	text string
}

// name is the name of the sub-test: the clauses first.
func (k *talk) name() string {
	return strings.Join(k.ids, " ") + " " + k.title
}

// talks are all conversations with servers in a version.
func talks(version string) ([]*talk, error) {
	dir := map[string]string{"5.0": "mqtt5", "3.1.1": "mqtt311"}[version]
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.talk"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var all []*talk
	for _, f := range files {
		list, err := readTalks(f, version)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	for _, k := range coded() {
		if k.version == version {
			all = append(all, k)
		}
	}
	return all, nil
}

func readTalks(file, version string) ([]*talk, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	where := "open"
	var list []*talk
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		head, isHead := strings.CutPrefix(line, "== ")
		g, isGroup := strings.CutPrefix(line, "group ")
		switch {
		case line == "" || line[0] == '#':
		case isGroup:
			where = g
		case isHead:
			ids, title, ok := strings.Cut(head, "|")
			if !ok {
				return nil, fmt.Errorf("%s:%d: no title", file, i+1)
			}
			list = append(list, &talk{version: version, group: where, ids: strings.Fields(ids), title: strings.TrimSpace(title),
				where: fmt.Sprintf("%s:%d", filepath.Base(file), i+1)})
		case len(list) == 0:
			return nil, fmt.Errorf("%s:%d: no heading", file, i+1)
		default:
			k := list[len(list)-1]
			k.steps = append(k.steps, step{i + 1, line})
		}
	}
	return list, nil
}
