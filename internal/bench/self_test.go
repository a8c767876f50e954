//go:build unix

package bench

import (
	"math"
	"strings"
	"testing"
)

func TestLimitIsRaisedOrSaidToBeTooLow(t *testing.T) {
	if err := raiseLimit(8); err != nil {
		t.Errorf("8 descriptors: %v", err)
	}
	if err := raiseLimit(math.MaxInt32); err == nil || !strings.Contains(err.Error(), "the hard limit is") {
		t.Errorf("%d descriptors: %v", math.MaxInt32, err)
	}
}
