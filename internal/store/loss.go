package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"time"
)

// ErrDamaged: what is stored there cannot be read, or not be trusted, although
// the disk answered. It comes with reads; the rest of the store is sound.
var ErrDamaged = errors.New("store: stored data is damaged")

// Loss is a mark that writes may be missing: those to keys in [Lower, Upper)
// that were committed at an index above From and not above To. A log whose end
// was lost leaves one over all keys; a block of a table that cannot be read one
// over its keys, from 0 on.
//
// A record in the range whose revision is below To may be an older one than
// what was acknowledged, and one that does not exist may have existed. So
// whoever numbers things skips as many numbers as could have been given out
// (see LostWrites): a number is never given out twice.
type Loss struct {
	Lower, Upper []byte // both nil: all keys
	From, To     uint64
	At           time.Time // when it was found, UTC
	File         string    // what was damaged, within the store's directory
	Cause        string    // for people
}

// Covers reports whether a write of key at an index in (From, To] could be
// among what was lost.
func (l *Loss) Covers(key []byte) bool {
	return bytes.Compare(key, l.Lower) >= 0 && (l.Upper == nil || bytes.Compare(key, l.Upper) < 0)
}

// Same reports whether two marks say the same about the same file.
func (l *Loss) Same(o *Loss) bool {
	return l.From == o.From && l.To == o.To && l.File == o.File &&
		bytes.Equal(l.Lower, o.Lower) && bytes.Equal(l.Upper, o.Upper) && (l.Upper == nil) == (o.Upper == nil)
}

// lossVersion begins every encoded Loss.
const lossVersion = 1

var lossPrefix = []byte{Config, byte(TableLoss)}

// Stage adds the mark to a batch of the Config partition. The same mark twice
// is one.
func (l *Loss) Stage(b *Batch) {
	v := []byte{lossVersion}
	v = binary.BigEndian.AppendUint64(v, l.From)
	v = binary.BigEndian.AppendUint64(v, l.To)
	v = binary.BigEndian.AppendUint64(v, uint64(l.At.UnixNano()))
	upper := byte(0)
	if l.Upper != nil {
		upper = 1
	}
	v = append(v, upper)
	for _, p := range [][]byte{l.Lower, l.Upper, []byte(l.File), []byte(l.Cause)} {
		v = binary.AppendUvarint(v, uint64(len(p)))
		v = append(v, p...)
	}
	h := fnv.New64a()
	h.Write(v)
	key := AppendUint64(AppendUint64(bytes.Clone(lossPrefix), l.To), h.Sum64())
	b.Put(key, v)
}

func (l *Loss) decode(v []byte) error {
	const fixed = 1 + 3*8 + 1
	if len(v) < fixed || v[0] != lossVersion {
		return fmt.Errorf("%w: a mark of lost writes of %d bytes", ErrDamaged, len(v))
	}
	l.From, l.To = binary.BigEndian.Uint64(v[1:]), binary.BigEndian.Uint64(v[9:])
	l.At = time.Unix(0, int64(binary.BigEndian.Uint64(v[17:]))).UTC()
	bounded := v[25] == 1
	rest := v[fixed:]
	var parts [4][]byte
	for i := range parts {
		var ok bool
		if parts[i], rest, ok = takeBytes(rest); !ok {
			return fmt.Errorf("%w: a mark of lost writes is cut short", ErrDamaged)
		}
	}
	l.Lower, l.File, l.Cause = bytes.Clone(parts[0]), string(parts[2]), string(parts[3])
	if bounded {
		l.Upper = bytes.Clone(parts[1])
	}
	return nil
}

// Losses returns all marks of a store in the order of To.
func Losses(s Snapshot) ([]Loss, error) {
	it := s.Iter(lossPrefix, PrefixEnd(lossPrefix))
	defer it.Close()
	var all []Loss
	for it.Next() {
		var l Loss
		if err := l.decode(it.Value()); err != nil {
			// All that it can have covered is lost: never assume less.
			to, _, ok := TakeUint64(it.Key()[len(lossPrefix):])
			if !ok {
				return nil, err
			}
			l = Loss{To: to, Cause: "the mark itself is damaged"}
		}
		all = append(all, l)
	}
	return all, it.Err()
}

// LostWrites returns how many commits may have written key after the revision
// that is stored (0: none is) and been lost. It is 0 in a store that never lost
// anything.
func LostWrites(s Snapshot, key []byte, rev Revision) (uint64, error) {
	losses, err := Losses(s)
	if err != nil || len(losses) == 0 {
		return 0, err
	}
	return lostWrites(losses, key, uint64(rev)), nil
}

// lostWrites counts the indexes above rev that a loss covers. A key that was
// written rev times at most was written rev plus that many times at most.
func lostWrites(losses []Loss, key []byte, rev uint64) (n uint64) {
	// Losses come in the order of To; of those that overlap each index counts
	// once. Walking down from the highest To, below is the lowest one counted.
	below := ^uint64(0)
	for i := len(losses) - 1; i >= 0; i-- {
		l := &losses[i]
		from, to := max(l.From, rev), min(l.To, below)
		if from >= to || !l.Covers(key) {
			continue
		}
		n += to - from
		below = from
	}
	return n
}
