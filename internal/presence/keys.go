package presence

import (
	"rollcall/internal/store"
)

// The ledger's key spaces. All but the boot counter live in the partition of
// (realm, session), so that a transition is one batch.
//
//	session   P ‖ TableSession ‖ realm ‖ session
//	          → State. Never deleted: it is what keeps a number from resetting.
//	history   P ‖ TableHistory ‖ realm ‖ session ‖ number(8) ‖ kind(1)
//	          → Transition. Deleted by retention.
//	timeline  P ‖ TableTimeline ‖ realm ‖ commit index(8) ‖ ordinal(2)
//	          → time ‖ session ‖ number ‖ kind: the ledger in commit order.
//	          Deleted by retention, oldest first, with the history it names.
//	open      P ‖ TableOpen ‖ realm ‖ node ‖ boot(8) ‖ session
//	          → number. Exists while that incarnation holds the session.
//	boot      0 ‖ TableBoot ‖ node → boot counter(8)

func (l *Ledger) partition(realm, session string) uint8 {
	return store.Partition(l.engine.Partitions(), realm, session)
}

func sessionKey(p uint8, realm, session string) []byte {
	return store.AppendString(store.AppendKey(make([]byte, 0, 64), p, store.TableSession, realm), session)
}

func historyPrefix(p uint8, realm, session string) []byte {
	return store.AppendString(store.AppendKey(make([]byte, 0, 80), p, store.TableHistory, realm), session)
}

func historyKey(p uint8, realm, session string, number uint64, k Kind) []byte {
	return append(store.AppendUint64(historyPrefix(p, realm, session), number), byte(k))
}

func timelinePrefix(p uint8, realm string) []byte {
	return store.AppendKey(make([]byte, 0, 48), p, store.TableTimeline, realm)
}

func openPrefix(p uint8, realm string, in Incarnation) []byte {
	k := store.AppendKey(make([]byte, 0, 80), p, store.TableOpen, realm)
	return store.AppendUint64(store.AppendString(k, in.Node), in.Boot)
}

func openKey(p uint8, realm string, in Incarnation, session string) []byte {
	return store.AppendString(openPrefix(p, realm, in), session)
}

// parseOpenKey is the inverse of openKey.
func parseOpenKey(key []byte) (realm string, in Incarnation, session string, ok bool) {
	if len(key) < 2 {
		return
	}
	rest := key[2:]
	if realm, rest, ok = store.TakeString(rest); !ok {
		return
	}
	if in.Node, rest, ok = store.TakeString(rest); !ok {
		return
	}
	if in.Boot, rest, ok = store.TakeUint64(rest); !ok {
		return
	}
	session, rest, ok = store.TakeString(rest)
	return realm, in, session, ok && len(rest) == 0
}

func bootKey(node string) []byte {
	return store.AppendKey(nil, store.Config, store.TableBoot, node)
}
