package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"stepfs/internal/storedir"
)

func versionCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if g.json {
				return printJSON(c.OutOrStdout(), struct {
					Version string `json:"version"`
					Format  int    `json:"store_format"`
					Go      string `json:"go"`
				}{version(), storedir.FormatVersion, runtime.Version()})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "stepfs %s, store format %d, %s\n", version(), storedir.FormatVersion, runtime.Version())
			return err
		},
	}
}

// version is what the Go tool recorded about the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
