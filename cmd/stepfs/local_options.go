package main

import (
	"slices"

	"github.com/spf13/pflag"
)

// localOptions are those options of a mount that matter without one, as the
// store's owner saved them. What writes to a store (import) or stores what was
// written (drain) does so as the mount would. A command that looks at one should
// not have it sealed or ingested meanwhile; only the limit matters to it.
func localOptions(command string, settings map[string]string) (*mountOptions, error) {
	o := &mountOptions{passive: !slices.Contains([]string{drainVerb, drainRemoteVerb, importVerb}, command), snapDir: "hidden", snapDirName: "snapshots", onFull: "expire"}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.Var(&o.storeLimit, limitFlag, "")
	f.BoolVar(&o.remoteForget, remoteForgetFlag, false, "")
	if !o.passive {
		f.Var(&o.hotLimit, "hot-limit", "")
		f.StringVar(&o.onFull, "on-full", o.onFull, "")
		f.StringVar(&o.snapDirName, "snapdir-name", o.snapDirName, "")
		f.IntVar(&o.workers, "ingest-workers", 0, "")
		f.DurationVar(&o.sealQuiet, "seal-quiet", 0, "")
		f.DurationVar(&o.sealGrace, "seal-grace", 0, "")
		f.BoolVar(&o.noSeal, "no-seal", false, "")
		f.BoolVar(&o.verifyOnSeal, "verify-on-seal", false, "")
	}
	if command == drainRemoteVerb {
		o.upload = true
		f.StringVar(&o.remote, remoteFlag, "", "")
		f.Var(&o.publish, publishName, "")
	}
	if err := applySettings(f, settings); err != nil {
		return nil, err
	}
	return o, o.validate()
}
