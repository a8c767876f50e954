package setaside_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"rollcall/internal/store"
	"rollcall/internal/store/setaside"
)

// An item is counted once however often it is met, a kind of trouble is logged
// once, and the engine's errors are nobody's item.
func TestItemsAreCountedOnceAndLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	l := setaside.New(slog.New(slog.NewTextHandler(&out, nil)))
	bad := errors.New("version 9")
	for range 3 {
		for n := range 10 {
			l.Add([]byte{0, byte(store.TableRetry), byte(n)}, bad)
		}
	}
	if got := l.Counts()["retries"]; got != 10 {
		t.Errorf("%d are counted", got)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d lines were logged:\n%s", n, out.String())
	}
	if !l.Has([]byte{0, byte(store.TableRetry), 3}) || l.Has([]byte{0, byte(store.TableRetry), 99}) {
		t.Error("it does not know which")
	}
	if l.Item([]byte{0, byte(store.TableWill)}, fmt.Errorf("read: %w", store.ErrDamaged)) {
		t.Error("an error of the engine is taken for an item's")
	}
	if items := l.Items(); len(items) != 10 || items[0].Table != "retries" || items[0].Reason != "version 9" {
		t.Errorf("items %+v", items)
	}
	var none *setaside.List
	none.Add([]byte{0, 1}, bad)
	if !none.Empty() || none.Has([]byte{0, 1}) || none.Items() != nil {
		t.Error("a nil list remembers")
	}
}
