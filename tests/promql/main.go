// Reads PromQL expressions, one a line, and says which of them Prometheus would not take.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	faults := 0
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if _, err := parser.ParseExpr(lines.Text()); err != nil {
			fmt.Printf("%s\n  %v\n", lines.Text(), err)
			faults++
		}
	}
	if err := lines.Err(); err != nil || faults > 0 {
		os.Exit(1)
	}
}
