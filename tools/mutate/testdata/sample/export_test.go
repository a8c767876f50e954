package sample

import "log/slog"

func NewCounter(log *slog.Logger) *Counter { return &Counter{by: map[string]int64{}, log: log} }

func (c *Counter) Counts() (map[string]int64, [2]uint8) { return c.by, c.all }
