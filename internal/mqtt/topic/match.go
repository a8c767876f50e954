package topic

// Match reports whether the topic filter matches the topic name. Both must be
// legal, and filter must be without a share name. A filter that begins with a
// wildcard does not match a name that begins with '$' [MQTT-4.7.2-1].
func Match[T text](filter string, name T) bool {
	if len(name) > 0 && name[0] == '$' && len(filter) > 0 && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	f, n := 0, 0 // where the current level begins; past the end if there is none
	for {
		if f < len(filter) && filter[f] == '#' {
			return true
		}
		fend, nend := f, n
		for fend < len(filter) && filter[fend] != '/' {
			fend++
		}
		for nend < len(name) && name[nend] != '/' {
			nend++
		}
		if filter[f:fend] != "+" && filter[f:fend] != string(name[n:nend]) {
			return false
		}
		f, n = fend+1, nend+1
		filterEnds, nameEnds := f > len(filter), n > len(name)
		switch {
		case filterEnds || nameEnds:
			// "a/#" also matches its parent, "a".
			return filterEnds && nameEnds || nameEnds && filter[f:] == "#"
		}
	}
}
