package broker

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"rollcall/internal/mqtt/listen"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
)

// will returns what is stored as a name's Will. It is for whoever has the
// name's turn.
func (rl *realm) will(st *stored.Store, name string, bx *box) *stored.Will {
	rl.mu.Lock()
	w, known := rl.wills[name]
	rl.mu.Unlock()
	if known || bx == nil || bx.willIsKnown() {
		return w
	}
	w, err := st.Will(rl.name, name)
	if err != nil {
		return nil // what cannot be read is replaced; its due entry is looked at and given up
	}
	if w != nil {
		rl.setWill(name, w)
	}
	bx.knowWill()
	return w
}

func (bx *box) willIsKnown() bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.willKnown
}

func (bx *box) knowWill() {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.willKnown = true
}

// hastenWill stages that a Will which waits is due now: its session ends
// [MQTT-3.1.3-9]. It returns what is stored then, or nil if nothing is staged.
func (bx *box) hastenWill(batch *store.Batch) *stored.Will {
	b, rl := bx.b, bx.realm
	bx.takeWill()
	w, now := rl.will(b.store, bx.name, bx), b.clock.Steady()
	if w == nil || !w.DueAt.After(now) {
		return nil
	}
	due := *w
	due.DueAt = now
	if err := b.store.StageWill(batch, rl.name, bx.name, w, &due); err != nil {
		b.opts.Log.Error("a Will cannot be stored", "session", bx.name, "err", err)
		return nil
	}
	return &due
}

// setWill notes what is stored as a name's Will; nil: nothing.
func (rl *realm) setWill(name string, w *stored.Will) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if w == nil {
		delete(rl.wills, name)
		return
	}
	rl.wills[name] = w
}

// beginWill notes that the caller publishes what is stored as the name's Will:
// it is nobody else's any more. It reports false if it is somebody's already.
func (rl *realm) beginWill(name string, only bool) bool {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if only && rl.publishing[name] > 0 {
		return false
	}
	rl.publishing[name]++
	return true
}

func (rl *realm) endWill(name string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if rl.publishing[name]--; rl.publishing[name] == 0 {
		delete(rl.publishing, name)
	}
}

// giveUpWill leaves a Will that could not be published to the janitor.
func (rl *realm) giveUpWill(key string) {
	rl.takeReplaced(key)
	rl.endWill(key)
}

// replacedKey is where a Will is kept, until it has been published, that the
// name's connection with a number has replaced. Nothing else would tell of it
// if a crash came first.
func replacedKey(name string, number uint64) string {
	return name + "\x00" + strconv.FormatUint(number, 10)
}

func (rl *realm) addReplaced(name, key string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	rl.replaced[name] = append(rl.replaced[name], key)
}

// takeReplaced returns the key of the oldest Will of the name that is replaced
// and published by somebody, and forgets it; or the name, if there is none.
// Wills of a name are published in their order.
func (rl *realm) takeReplaced(name string) (key string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	keys := rl.replaced[name]
	if len(keys) == 0 {
		return name
	}
	if rl.replaced[name] = keys[1:]; len(keys) == 1 {
		delete(rl.replaced, name)
	}
	return keys[0]
}

// dropReplaced forgets one, which has not been stored after all.
func (rl *realm) dropReplaced(name, key string) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	keys := slices.DeleteFunc(rl.replaced[name], func(k string) bool { return k == key })
	if rl.replaced[name] = keys; len(keys) == 0 {
		delete(rl.replaced, name)
	}
}

// isReplaced reports whether key is that of a Will that is replaced and
// published by somebody.
func (rl *realm) isReplaced(key string) bool {
	name, _, _ := strings.Cut(key, "\x00")
	rl.mu.Lock()
	defer rl.mu.Unlock()
	return slices.Contains(rl.replaced[name], key)
}

func (rl *realm) publishesWill(name string) bool {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	return rl.publishing[name] > 0
}

// publishWill publishes a Will, which is the caller's by beginWill(key), and then
// removes it from the store. Then, which may be nil, is called once it has been
// handed to everybody.
func (b *Broker) publishWill(r *round, rl *realm, key string, w *stored.Will, then func(*round)) {
	name, _, _ := strings.Cut(key, "\x00")
	g := b.ghost(rl, name)
	out := &session.Message{Publish: w.Message.Publish, From: name, Received: r.now.Wall} // its expiry counts from now
	p := newPublisher(g, 0, 0)
	p.then = func(published bool) {
		if published {
			b.removeWill(rl, name, key)
		} else { // the janitor tries again
			rl.giveUpWill(key)
		}
	}
	r.byQoS[out.QoS]++
	f := r.takeFan()
	f.b, f.realm, f.message, f.by, f.p, f.then = b, rl, out, g, p, then
	if g.fan(r, f) {
		f.finish(r)
	}
}

// ghost is a publisher without a connection.
func (b *Broker) ghost(rl *realm, name string) *conn {
	c := &conn{b: b, realm: rl, link: noLink{}, info: listen.Info{Realm: rl.name}, name: sessionName{rl.name, name}}
	c.partition = b.store.Partition(rl.name, name)
	c.s = session.New(&b.cfg, b.clock.Instant())
	return c
}

// removeWill removes a Will that has been published.
func (b *Broker) removeWill(rl *realm, name, key string) {
	b.opts.Presence.Amend(rl.name, name, func(batch *store.Batch, _ bool) bool {
		at := rl.takeReplaced(key)
		w, err := b.store.Will(rl.name, at)
		if err != nil || w == nil || w.DueAt.IsZero() || w.DueAt.After(b.clock.Steady()) {
			return false // it is another one
		}
		if err := b.store.StageWill(batch, rl.name, at, w, nil); err != nil {
			return false
		}
		if at == name {
			rl.setWill(name, nil)
		}
		return true
	}, func(err error) {
		rl.endWill(key)
		if err != nil {
			b.opts.Log.Warn("a Will that was published could not be removed", "session", name, "err", err)
		}
	})
}

// noLink is the transport of nobody.
type noLink struct{}

func (noLink) admit(*round, string, *packet.Connect, uint32) {}
func (noLink) push(*round)                                   {}
func (noLink) catchUp()                                      {}
func (noLink) rouse()                                        {}
func (noLink) backlog() int                                  { return 0 }
func (noLink) progress() (uint64, bool)                      { return 0, false }
func (noLink) isDeaf() bool                                  { return false }
func (noLink) abort()                                        {}

// Crashed is the Stage of a Disconnected that closes what an earlier start left
// open: a stored session waits for its client from then on, and its Will is
// due.
func (b *Broker) Crashed(batch *store.Batch, realm, name string) {
	rl, at := b.realm(realm), b.clock.Steady()
	bx := rl.box(name)
	expiry := uint32(0)
	if bx != nil {
		expiry = bx.current().Expiry
		bx.stageOffline(batch, expiry, at)
	}
	w, err := b.store.Will(realm, name)
	if err != nil {
		b.opts.Log.Error("a Will cannot be read", "session", name, "err", err)
		return
	}
	if w == nil || !w.DueAt.IsZero() {
		return
	}
	due := *w
	due.DueAt = at
	if expiry > 0 {
		due.DueAt = at.Add(time.Duration(min(w.Delay, expiry)) * time.Second)
	}
	if err := b.store.StageWill(batch, realm, name, w, &due); err != nil {
		b.opts.Log.Error("a Will cannot be stored", "session", name, "err", err)
		return
	}
	rl.setWill(name, &due)
}
