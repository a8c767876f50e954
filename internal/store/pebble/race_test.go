//go:build race

package pebble_test

// raced says that the race detector, which takes ten times as long, is on.
const raced = true
