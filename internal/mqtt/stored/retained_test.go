package stored_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/mqtt/topic"
	"rollcall/internal/store"
	"rollcall/internal/store/delay"
	"rollcall/internal/store/mem"
	"rollcall/internal/store/pebble"
)

// match returns topic=payload of what is retained, sorted.
func match(t *testing.T, st *stored.Store, realm, filter string) (all []string) {
	t.Helper()
	must(t, "match", st.MatchRetained(realm, filter, func(m *session.Message) bool {
		all = append(all, string(m.Topic)+"="+string(m.Payload))
		return true
	}))
	slices.Sort(all)
	return all
}

func wantMatch(t *testing.T, st *stored.Store, filter string, want ...string) {
	t.Helper()
	if got := match(t, st, realm, filter); !slices.Equal(got, want) {
		t.Fatalf("retained for %s: got %.200q, want %.200q", filter, got, want)
	}
}

func retain(t *testing.T, st *stored.Store, topic, payload string) error {
	t.Helper()
	return wait(func(done func(error)) {
		if err := st.Retain(realm, message("p", topic, payload, 1), done); err != nil {
			done(err)
		}
	})
}

func retainMessage(t *testing.T, st *stored.Store, m *session.Message) {
	t.Helper()
	must(t, "retain", wait(func(done func(error)) { must(t, "retain", st.Retain(realm, m, done)) }))
}

// Retained messages are found by filter, replaced and removed, and come back
// after a restart, whatever their size.
func TestRetained(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		big := strings.Repeat("b", 5000)
		for _, r := range [][2]string{{"a", "1"}, {"a/b", "2"}, {"a/b/c", big}, {"a//c", "4"}, {"/", "5"}, {"$SYS/x", "6"}, {"a/$x", "7"}} {
			must(t, "retain", retain(t, st, r[0], r[1]))
		}
		must(t, "retain", wait(func(done func(error)) {
			must(t, "retain", st.Retain("other", message("p", "a", "elsewhere", 0), done))
		}))
		for range 2 {
			wantMatch(t, st, "a", "a=1")
			wantMatch(t, st, "#", "/=5", "a/$x=7", "a//c=4", "a/b/c="+big, "a/b=2", "a=1")
			wantMatch(t, st, "a/#", "a/$x=7", "a//c=4", "a/b/c="+big, "a/b=2", "a=1")
			wantMatch(t, st, "+/+", "/=5", "a/$x=7", "a/b=2")
			wantMatch(t, st, "a/+/c", "a//c=4", "a/b/c="+big)
			wantMatch(t, st, "+/x")
			wantMatch(t, st, "$SYS/#", "$SYS/x=6")
			wantMatch(t, st, "$SYS/+", "$SYS/x=6")
			wantMatch(t, st, "a/b/c/#", "a/b/c="+big)
			wantMatch(t, st, "b/#")
			if got := match(t, st, "other", "#"); !slices.Equal(got, []string{"a=elsewhere"}) {
				t.Fatalf("the other realm has %q", got)
			}
			if n, bytes := st.Retained(); n != 8 || bytes != int64(5000+6+9+1+3+5+4+1+6+4+1) {
				t.Errorf("%d messages of %d bytes are retained", n, bytes)
			}
			st = open(t, e)
		}
		must(t, "retain", retain(t, st, "a/b/c", "small"))
		must(t, "retain", retain(t, st, "a/b", ""))
		must(t, "retain", retain(t, st, "never", ""))
		wantMatch(t, st, "a/b/#", "a/b/c=small")
		n := 0
		must(t, "match", st.MatchRetained(realm, "#", func(*session.Message) bool { n++; return false }))
		if n != 1 {
			t.Errorf("f was called %d times after it had returned false", n)
		}
		for _, m := range match(t, st, realm, "#") {
			must(t, "retain", retain(t, st, strings.SplitN(m, "=", 2)[0], ""))
		}
		must(t, "retain", retain(t, st, "$SYS/x", ""))
		if n := keys(t, e, store.TableRetained); n != 1 {
			t.Errorf("%d keys are left, want the other realm's", n)
		}
	})
}

// Limits refuse at once, and count what they promise.
func TestRetainedLimits(t *testing.T) {
	e := mem.New()
	defer e.Close()
	st, err := stored.Open(stored.Options{Engine: e, Retained: stored.RetainedLimits{Messages: 2, Bytes: 30, MessageBytes: 20}})
	must(t, "open", err)
	for _, tt := range []struct {
		topic, payload string
		want           error
	}{
		{"a", strings.Repeat("x", 20), stored.ErrTooLarge},
		{"a", strings.Repeat("x", 19), nil},
		{"b", strings.Repeat("x", 10), stored.ErrRetainQuota},
		{"b", strings.Repeat("x", 9), nil},
		{"b", strings.Repeat("x", 10), stored.ErrRetainQuota},
		{"c", "x", stored.ErrRetainQuota},
		{"a", "x", nil},
		{"c", "x", stored.ErrRetainQuota}, // two messages are enough
		{"b", "", nil},
		{"c", "x", nil},
	} {
		if err := retain(t, st, tt.topic, tt.payload); !errors.Is(err, tt.want) {
			t.Errorf("retain %d bytes for %s: got %v, want %v", len(tt.payload), tt.topic, err, tt.want)
		}
	}
	wantMatch(t, st, "#", "a=x", "c=x")
	var rule *packet.Error
	if err := retain(t, st, "a/#", "x"); !errors.As(err, &rule) {
		t.Errorf("a wildcard: got %v", err)
	}
	if _, err := stored.Open(stored.Options{Engine: e, Retained: stored.RetainedLimits{Messages: -1}}); err == nil {
		t.Error("a negative limit is accepted")
	}
}

// Expired messages are not seen, and are removed without being asked for.
func TestRetainedExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mem.New()
		st, err := stored.Open(stored.Options{Engine: e})
		must(t, "open", err)
		in := func(topic string, seconds uint32, size int) {
			m := message("p", topic, strings.Repeat("x", size), 0)
			m.Received = time.Now()
			m.MessageExpiryInterval = packet.Some(seconds)
			retainMessage(t, st, m)
		}
		for i := range 20 {
			in(fmt.Sprint("t", i), uint32(10+i), 1+i*30)
		}
		retainMessage(t, st, message("p", "stays", "y", 0))
		in("changes", 5, 1)
		in("changes", 100, 1)
		retainMessage(t, st, message("p", "t19", "for ever", 0))
		time.Sleep(10*time.Second - time.Millisecond) // virtual
		if n := len(match(t, st, realm, "#")); n != 22 {
			t.Errorf("%d messages before the first expires, want 22", n)
		}
		time.Sleep(5 * time.Second) // virtual
		if n := len(match(t, st, realm, "#")); n != 17 {
			t.Errorf("%d messages after five have expired, want 17", n)
		}
		if n := keys(t, e); n != 22 {
			t.Errorf("%d are stored, want all while nothing runs", n)
		}
		st, err = stored.Open(stored.Options{Engine: e})
		must(t, "open", err)
		stop := run(t, st)
		time.Sleep(2500 * time.Millisecond) // virtual
		if n := keys(t, e); n != 15 {
			t.Errorf("%d are stored after seven have expired, want 15", n)
		}
		e.SetExhausted(true)
		time.Sleep(20 * time.Second) // virtual
		wantMatch(t, st, "#", "changes=x", "stays=y", "t19=for ever")
		if n, _ := st.Retained(); n != 15 {
			t.Errorf("%d are counted while none can be deleted, want 15", n)
		}
		e.SetExhausted(false)
		time.Sleep(2500 * time.Millisecond) // virtual
		if n := keys(t, e); n != 3 {
			t.Errorf("%d are stored in the end, want 3", n)
		}
		stop()
		must(t, "close", e.Close())
	})
}

// Many changes of one topic at once are few commits, and a failed one restores
// what is durable.
func TestRetainedCoalesced(t *testing.T) {
	var batches int
	var full bool
	e := delay.New(mem.New(), delay.Options{Max: 5 * time.Millisecond, Fault: func(*store.Batch) delay.Fault {
		batches++
		if full {
			return delay.Full
		}
		return delay.None
	}})
	defer e.Close()
	st := open(t, e)
	const n = 1000
	errs := make(chan error, n)
	for i := range n {
		must(t, "retain", st.Retain(realm, message("p", "t", fmt.Sprint(i), 0), func(err error) { errs <- err }))
		wantMatch(t, st, "t", fmt.Sprint("t=", i))
	}
	for range n {
		must(t, "retain", <-errs)
	}
	if batches > n/4 {
		t.Errorf("%d changes took %d commits", n, batches)
	}
	wantMatch(t, open(t, e), "t", "t=999")
	full = true
	if err := retain(t, st, "t", "refused"); !errors.Is(err, store.ErrFull) {
		t.Errorf("retain on a full disk: got %v", err)
	}
	if err := retain(t, st, "new", "refused"); !errors.Is(err, store.ErrFull) {
		t.Errorf("retain on a full disk: got %v", err)
	}
	wantMatch(t, st, "#", "t=999")
	if n, bytes := st.Retained(); n != 1 || bytes != 4 {
		t.Errorf("%d messages of %d bytes are retained, want 1 of 4", n, bytes)
	}
}

// P2: what was reported as retained is, after any crash, and a newer one at
// most instead; and the trie finds what topic.Match says.
func TestRetainedAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	levels := []string{"a", "b", "", "$c", "d", "é"}
	name := func(wild bool) string {
		var parts []string
		for range 1 + random.IntN(3) {
			parts = append(parts, levels[random.IntN(len(levels))])
			if wild && random.IntN(3) == 0 {
				parts[len(parts)-1] = "+"
			}
		}
		if wild && random.IntN(3) == 0 {
			parts = append(parts, "#")
		}
		return strings.Join(parts, "/")
	}
	model := make(map[string]string)
	for round := range 20 {
		e, err := pebble.Open(pebble.Options{Dir: "/s", FS: fs})
		must(t, "open", err)
		st := open(t, e)
		for step := range 60 {
			topicName := name(false)
			if topicName == "" {
				continue
			}
			payload := ""
			if random.IntN(3) > 0 {
				payload = strings.Repeat(fmt.Sprint(round, ".", step, " "), 1+random.IntN(100))
			}
			must(t, "retain", retain(t, st, topicName, payload))
			if delete(model, topicName); payload != "" {
				model[topicName] = payload
			}
			filter := name(true)
			if filter == "" {
				continue
			}
			var want []string
			for k, v := range model {
				if topic.Match(filter, k) {
					want = append(want, k+"="+v)
				}
			}
			slices.Sort(want)
			wantMatch(t, st, filter, want...)
		}
		if n, _ := st.Retained(); n != len(slices.Collect(maps.Keys(model))) {
			t.Fatalf("%d messages are retained, want %d", n, len(model))
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: rand.New(rand.NewPCG(random.Uint64(), 1))})
		must(t, "close", e.Close())
		fs = clone
	}
}

// TestRetainedWalksAreSmall: 200 who look for all of 30,000 retained messages and
// take one keep next to nothing, and those who publish go on meanwhile.
func TestRetainedWalksAreSmall(t *testing.T) {
	st := open(t, mem.New())
	const topics, walks = 30_000, 200
	for i := range topics {
		must(t, "retain", st.Retain(realm, message("p", fmt.Sprintf("%d/%d", i%300, i), "x", 1), nil))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	taken, release := make(chan error, walks), make(chan struct{})
	var wg sync.WaitGroup
	for range walks {
		wg.Go(func() {
			first := true
			err := st.MatchRetained(realm, "#", func(*session.Message) bool {
				if first {
					first = false
					taken <- nil
					<-release
				}
				return false
			})
			if first {
				taken <- fmt.Errorf("nothing was found: %w", err)
			}
		})
	}
	for range walks {
		must(t, "walk", <-taken)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > walks*16<<10 {
		t.Errorf("%d walks hold %d KiB", walks, grown>>10)
	}
	for i := range topics { // under their feet
		must(t, "retain", st.Retain(realm, message("p", fmt.Sprintf("%d/%d", i%300, i), "", 1), nil))
	}
	close(release)
	wg.Wait()
	if n, _ := st.Retained(); n != 0 {
		t.Errorf("%d messages are retained", n)
	}
}

// TestRetainedWalkInterrupted: what is retained all the while is found once,
// whatever comes and goes while somebody takes his time.
func TestRetainedWalkInterrupted(t *testing.T) {
	st := open(t, mem.New())
	random := rand.New(rand.NewPCG(4, 2))
	name := func(i int) string { return fmt.Sprintf("%d/%d/%d", i%7, i%11, i) }
	for i := range 500 {
		must(t, "retain", st.Retain(realm, message("p", name(i), "x", 1), nil))
	}
	for _, filter := range []string{"#", "+/+/+", "3/#", "+/5/+", "3/+/#"} {
		found := make(map[string]int)
		must(t, "match", st.MatchRetained(realm, filter, func(m *session.Message) bool {
			found[string(m.Topic)]++
			for range 5 { // odd ones come and go, even ones stay
				i := random.IntN(250)*2 + 1
				payload := "x"
				if random.IntN(2) == 0 {
					payload = ""
				}
				must(t, "retain", st.Retain(realm, message("p", name(i), payload, 1), nil))
			}
			return true
		}))
		for i := range 500 {
			n := found[name(i)]
			matches := topic.Match(filter, name(i))
			if !matches && n > 0 || i%2 == 0 && matches && n != 1 {
				t.Fatalf("%s was found %d times by %s", name(i), n, filter)
			}
		}
	}
}
