package registry

import (
	"rollcall/internal/filter"
	"rollcall/internal/store"
)

// The registry's key spaces, all in the partition of configuration.
//
//	resource  0 ‖ TableResource ‖ realm ‖ kind(1) ‖ name
//	          → clientRecord or caRecord. Deleted with the resource.
//	name      0 ‖ TableName ‖ realm ‖ folded authentication name
//	          → the client's name. Written and deleted with the client: what
//	          makes authentication names unique.
//	folded    0 ‖ TableClientName ‖ realm ‖ folded client name
//	          → the client's name. Written and deleted with the client: what
//	          makes names of clients unique ignoring case. Clients of versions
//	          that told names apart by case have none.
//	pending   0 ‖ TablePending ‖ realm ‖ client name
//	          → owedRecord: an event that tells of the client is owed. Written
//	          with the change, deleted with the event.
//
// The name of a client is as it was written; that of a CA certificate is folded.

// kind is the kind of a resource.
type kind uint8

const (
	kindClient kind = 1
	kindCA     kind = 2
)

const partition = store.Config

func kindPrefix(realm string, k kind) []byte {
	return append(store.AppendKey(make([]byte, 0, 96), partition, store.TableResource, realm), byte(k))
}

func clientKey(realm, name string) []byte {
	return store.AppendString(kindPrefix(realm, kindClient), name)
}

func caKey(realm, name string) []byte {
	return store.AppendString(kindPrefix(realm, kindCA), filter.Fold(name))
}

func nameKeyPrefix(realm string) []byte {
	return store.AppendKey(make([]byte, 0, 96), partition, store.TableName, realm)
}

func nameKey(realm, folded string) []byte { return store.AppendString(nameKeyPrefix(realm), folded) }

func foldedKey(realm, name string) []byte {
	return store.AppendString(store.AppendKey(make([]byte, 0, 96), partition, store.TableClientName, realm), filter.Fold(name))
}

func owedPrefix(realm string) []byte {
	return store.AppendKey(make([]byte, 0, 96), partition, store.TablePending, realm)
}

func owedKey(realm, name string) []byte { return store.AppendString(owedPrefix(realm), name) }
