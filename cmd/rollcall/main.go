// Command rollcall is a self-hosted event grid for device fleets: server and
// command line in one binary.
package main

import (
	"os"

	"rollcall/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
