package app

import "testing"

// The validation URL is one that the receiver can open.
func TestValidationURLIsReachable(t *testing.T) {
	here, there := []string{"http://127.0.0.1:1"}, []string{"http://grid.example:1"}
	tlsHere, tlsThere := []string{"https://127.0.0.1:2"}, []string{"https://grid.example:2"}
	for _, c := range []struct {
		endpoint      string
		plain, secure []string
		want          string
	}{
		{"https://127.0.0.1:9/", here, tlsHere, here[0]},
		{"https://localhost/", here, tlsThere, here[0]},
		{"http://[::1]/", there, tlsHere, there[0]},
		{"http://10.0.0.1/", there, tlsThere, there[0]},
		{"http://10.0.0.1/", here, tlsThere, tlsThere[0]},
		{"https://hook.example/", there, tlsThere, tlsThere[0]},
		{"https://hook.example/", there, tlsHere, there[0]},
		{"https://hook.example/", here, tlsHere, tlsHere[0]},
		{"https://127.0.0.1:9/", nil, tlsHere, tlsHere[0]},
		{"https://127.0.0.1:9/", nil, nil, ""},
	} {
		if got := reachable(c.endpoint, c.plain, c.secure); got != c.want {
			t.Errorf("%s is given %q of %v and %v, want %q", c.endpoint, got, c.plain, c.secure, c.want)
		}
	}
}
