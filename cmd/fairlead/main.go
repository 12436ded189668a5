// Command fairlead runs a whole system of cooperating services from one file.
package main

import (
	"os"

	"fairlead/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
