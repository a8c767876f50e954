package pebble_test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// BenchmarkCommit commits batches like a session's transition: one key that is
// required and put, one put, one sequenced put, 700 bytes of values.
func BenchmarkCommit(b *testing.B) {
	for _, flight := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("inflight=%d", flight), func(b *testing.B) {
			e, err := pebble.Open(pebble.Options{Dir: b.TempDir() + "/s"})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			value := make([]byte, 350)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			slots := make(chan struct{}, flight)
			for i := range b.N {
				slots <- struct{}{}
				wg.Add(1)
				var id [8]byte
				binary.BigEndian.PutUint64(id[:], uint64(i)*0x9E3779B97F4A7C15)
				p := uint8(i % 15)
				batch := store.NewBatch(store.Normal)
				key := append(store.AppendKey(nil, p, store.TableSession, "realm"), id[:]...)
				batch.Require(key, 0)
				batch.Put(key, value[:200])
				batch.Put(append(store.AppendKey(nil, p, store.TableHistory, "realm"), id[:]...), value[:150])
				batch.PutSequenced(store.AppendKey(nil, p, store.TableEvent, "realm"), value)
				e.Submit(batch, func(r store.Result) {
					if r.Err != nil {
						b.Error(r.Err)
					}
					<-slots
					wg.Done()
				})
			}
			wg.Wait()
			b.StopTimer()
			s := e.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64(s.Batches)/float64(max(s.Groups, 1)), "commits/sync")
		})
	}
}
