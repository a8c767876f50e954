// Package stored keeps what MQTT must not lose: session state that outlives a
// connection, its subscriptions, the messages that wait for it, Wills, and
// retained messages.
//
// Its promise (P2): what a done function reports without an error is on disk,
// and everything on disk is found again after kill -9, with nothing that was
// reported missing and each session's queue in its order. A message is stored
// once however many sessions wait for it. What has been acknowledged leaves the
// disk in the background; a crash before that repeats it, which QoS 1 allows and
// the released mark makes harmless for QoS 2.
//
// A session's state is in the partition of its name and is staged into the
// batches of whoever owns the name, so that it changes with the session's
// life cycle or not at all. A publication is in the partition of its publisher:
// one message record if there are several targets, and one queue entry for each
// of them under the target's name. So a session's queue is spread over all
// partitions and merged by commit index when it is read.
//
// State is named by realm, session name and epoch, the number of the Connected
// that made it, which is never used again. Ending a session deletes the state
// and stages a tombstone, and leaves behind what has the epoch in its key:
// subscriptions, identifiers and the queue. A background task deletes that for
// tombstones that are older than the grace period, key by key, since ranges
// deleted by the thousand slow all readers down, and a tombstone itself once a
// look at all partitions finds nothing in the queue any more. A
// publication that was routed before the end and committed after it is found
// that way; only one that took longer than the grace period from being routed
// to being submitted would stay behind.
//
// Which entries still refer to a message record is known in memory, exactly and
// by entry, not as a number: settling an entry twice is settling it once. It takes
// about 60 bytes for each message of several targets that is stored. For
// messages of earlier runs of the process it is found out by one walk over the
// queues after the start, at the price of reading them once; a list of targets
// in each record would have to be written with every message and asked for key
// by key. A message record is deleted after the last entry that refers to it,
// never with it, so that no view shows an entry without its message.
//
// A crash can undo the deletion of an entry that was acknowledged, after its
// packet identifier was given to a newer one. Of two entries of a session with
// the same identifier the older one is therefore settled when a queue of an
// earlier run is first read.
//
// Nothing here waits for the disk while holding a lock. Methods may be called
// concurrently unless they say otherwise.
package stored
