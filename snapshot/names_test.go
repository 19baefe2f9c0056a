package snapshot_test

import (
	"testing"

	"stepfs/snapshot"
)

func TestStepNames(t *testing.T) {
	for name, want := range map[string]string{
		"checkpoint-500": "500", "checkpoint_0500": "500", "step-12": "12", "step12": "12", "global_step30": "30",
		"globalstep_30": "30", "iter_0000100": "100", "iteration-9": "9", "epoch=1-step=7": "7", "12000": "12000",
		"000": "0", "0": "0", "epoch=1-step=7.ckpt": "7",
		"": "", "checkpoint": "", "checkpoint-": "", "my-checkpoint-5": "", "checkpoint-5.tmp": "", "step-5-unfinished": "",
		"-5": "", "5a": "", "epoch=1": "", "99999999999999999999999999": "", "last.ckpt": "",
	} {
		if got, ok := snapshot.StepOf(name, false); got != want || ok != (want != "") {
			t.Errorf("directory %q is step %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"epoch=03-step=0077.ckpt": "77", "checkpoint-5.pt": "5", "step_9.safetensors": "9", "iter7.bin": "7",
		"12000": "", "checkpoint-5": "", "checkpoint-5.pt.tmp": "", "model.pt": "", "checkpoint-5.txt": "",
	} {
		if got, ok := snapshot.StepOf(name, true); got != want || ok != (want != "") {
			t.Errorf("file %q is step %q, want %q", name, got, want)
		}
	}
}

// Paths of successive steps are one path, and others are not mixed up.
func TestMaskedPaths(t *testing.T) {
	for path, want := range map[string]string{
		"checkpoint-5/model-00001-of-00002.pt": "checkpoint-#/model-00001-of-00002.pt",
		"run2/step-7/rank_3/x":                 "run2/step-#/rank_3/x",
		"epoch=1-step=7.ckpt":                  "epoch=#-step=#.ckpt",
		"a/b7.pt":                              "a/b7.pt",
		"7/7":                                  "#/7",
	} {
		if got := snapshot.MaskNumbers(path); got != want {
			t.Errorf("%s is masked as %s, want %s", path, got, want)
		}
	}
}
