//go:build tools

// Package mutate pins the mutation tester, in a module of its own.
package mutate

import _ "github.com/go-gremlins/gremlins/cmd/gremlins"
