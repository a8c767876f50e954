//go:build !linux

package bench

import (
	"errors"
	"time"
)

// process is another process. Only Linux lets us read what it uses.
type process struct{}

var errNoProc = errors.New("only on Linux can the CPU and memory of another process be read")

func openProcess(int) (*process, error) { return nil, errNoProc }

func (*process) cpu() (time.Duration, error) { return 0, errNoProc }

func (*process) memory() (*Memory, error) { return nil, errNoProc }

func listenerOf(string) (int, error) { return 0, errNoProc }
