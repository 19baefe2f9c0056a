package snapshot

import "stepfs/snapshot/rules"

// OwnPrefix begins the names under which a restore or an import keeps what is
// not whole yet. No step is in what is called so.
const OwnPrefix = rules.OwnPrefix

// StepName gives the step that a name stands for, as sealing sees it.
func StepName(name string, file bool) (step string, ok bool) { return stepOf(name, file) }
