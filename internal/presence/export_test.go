package presence

import "context"

// TrimAll measures the timeline and trims it once.
func (l *Ledger) TrimAll(ctx context.Context) error {
	sizes, err := l.measure(ctx)
	if err != nil {
		return err
	}
	return l.Trim(ctx, sizes)
}
