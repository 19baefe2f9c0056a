package snapshot

import "stepfs/snapshot/rules"

// What a restore or an import keeps under a name with such a beginning is not
// whole yet: no step is in it. A step that had one is sealed as Adopt does.
const (
	RestorePrefix = rules.OwnPrefix + "restore-"
	ImportPrefix  = rules.OwnPrefix + "import-"
)

// StepName gives the step that a name stands for, as sealing sees it.
func StepName(name string, file bool) (step string, ok bool) { return stepOf(name, file) }
