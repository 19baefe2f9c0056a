package snapshot

// StepName gives the step that a name stands for, as sealing sees it.
func StepName(name string, file bool) (step string, ok bool) { return stepOf(name, file) }
