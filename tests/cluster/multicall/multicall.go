// Package multicall lets several programs share one executable: the name it is called by says which one runs.
// Programs of one source tree have most of their packages in common, so this links once and takes a third of the disk.
package multicall

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
)

// Programs holds what each name runs. A program ends the process itself, or returns for success.
type Programs map[string]func()

// Run starts the program that the process was called as, by argv[0], or else by its first argument.
func (p Programs) Run() {
	if run, ok := p[filepath.Base(os.Args[0])]; ok {
		run()
		return
	}
	if len(os.Args) > 1 {
		if run, ok := p[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	names := make([]string, 0, len(p))
	for name := range p {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "call this as one of %v\n", names)
	os.Exit(2)
}

// Component runs a Kubernetes component as its own main function does.
func Component(command func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(command())) }
}
