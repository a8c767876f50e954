package auth

import (
	"os"
	"runtime"
	"sync"
)

// room is how the scheduler is made to leave room for everybody else while
// hashes are computed.
//
// A hash takes 25 ms in one go, and Go takes a processor (GOMAXPROCS) away from
// who computes after 10 ms. With as many processors as cores, a client whose
// packet arrives while one hashes and the other collects waits for that. With
// more, there is one free, and it is the system that shares out the cores: it
// wakes the thread at once, since that has slept while the others computed.
// Only while hashes are under way, because more processors than cores cost a
// busy server something.
var room struct {
	sync.Mutex
	hashing int // how many hash
	before  int // GOMAXPROCS when nobody did
}

// makeRoom adds one processor for the hash that the caller is about to compute,
// and one for the collector, which every hash (19 MiB) keeps busy. It waits for
// a collection to end and stops the world for some 30 µs.
func makeRoom() {
	room.Lock()
	defer room.Unlock()
	if room.hashing++; room.hashing == 1 {
		room.before = runtime.GOMAXPROCS(0)
	}
	runtime.GOMAXPROCS(room.before + room.hashing + 1)
}

// giveBack undoes makeRoom.
func giveBack() {
	room.Lock()
	defer room.Unlock()
	switch room.hashing--; {
	case room.hashing > 0:
		runtime.GOMAXPROCS(room.before + room.hashing + 1)
	case os.Getenv("GOMAXPROCS") == "":
		runtime.SetDefaultGOMAXPROCS() // follows the container's limit again
	default:
		runtime.GOMAXPROCS(room.before)
	}
}
