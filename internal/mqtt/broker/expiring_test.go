package broker

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestExpiringSums: whatever comes and goes in whatever order, what is said to
// have expired has, and most of what has expired is said to have.
func TestExpiringSums(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(1_000_000, 0)
	type message struct {
		at   int64
		size int
	}
	var x expiring
	var all []message
	for range 20_000 {
		switch random.IntN(5) {
		case 0, 1, 2:
			ttl := time.Duration(1+random.IntN(600)) * time.Second
			if random.IntN(50) == 0 {
				ttl = 10_000 * time.Hour
			}
			m := message{now.Add(ttl).UnixNano(), random.IntN(1000)}
			x.add(m.at, m.size, now)
			all = append(all, m)
		case 3:
			now = now.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
		case 4:
			for range min(2, len(all)) {
				i := random.IntN(len(all))
				x.remove(all[i].at, all[i].size)
				all[i] = all[len(all)-1]
				all = all[:len(all)-1]
			}
		}
		if len(x.spans) > spansMax {
			t.Fatalf("%d spans", len(x.spans))
		}
		messages, size := x.expired(now)
		wantMessages, wantSize, slack := 0, int64(0), 0
		for _, m := range all {
			if m.at <= now.UnixNano() {
				wantMessages++
				wantSize += int64(m.size)
				if m.at > now.Add(-120*time.Second).UnixNano() {
					slack++
				}
			}
		}
		if messages > wantMessages || size > wantSize || messages < wantMessages-slack {
			t.Fatalf("%d messages of %d bytes are said to have expired; %d of %d have, %d of them lately", messages, size, wantMessages, wantSize, slack)
		}
	}
	for _, m := range all {
		x.remove(m.at, m.size)
	}
	if len(x.spans) != 0 {
		t.Errorf("%+v is left", x.spans)
	}
}
