package inspect

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// A format says which files are checked how. What no format claims is not
// looked at, but for being empty.
type format struct {
	names func(name string) bool
	check func(c *checker, s span) error
	empty bool // a file of no bytes is nothing unusual
}

// formats: the first that fits a name is taken.
var formats = []format{
	{names: exactly(".metadata"), check: checkDCP},
	{names: suffix(".distcp"), check: checkDistcp, empty: true}, // a rank with nothing to save leaves one
	{names: suffix(".safetensors"), check: checkSafetensors},
	{names: isIndex, check: checkIndex},
	{names: suffix(".json"), check: jsonOnly},
	{names: exactly("_METADATA", "_CHECKPOINT_METADATA", ".zarray"), check: jsonOnly}, // Orbax
	{names: suffix(".pt", ".pth", ".pth.tar"), check: checkTorch},
	{names: isTorchBin, check: checkTorch},
	// These are torch's only at times.
	{names: suffix(".ckpt", ".pkl", ".pickle"), check: checkTorchOrOther},
	{names: suffix(".bin"), check: checkBin},
}

// weights are what frameworks that are not looked into call theirs: of size 0
// they were not written.
var weights = []string{".npz", ".npy", ".h5", ".msgpack", ".gguf", ".onnx"}

func suffix(ends ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(name, end) })
	}
}

func exactly(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

// isTorchBin: pytorch_model-00001-of-00002.bin, optimizer.bin and so on, which
// are torch's. A .bin of another name may be anything.
func isTorchBin(name string) bool {
	return strings.HasSuffix(name, ".bin") && slices.ContainsFunc(
		[]string{"pytorch_model", "adapter_model", "optimizer", "scheduler", "training_args"},
		func(part string) bool { return strings.Contains(name, part) })
}

// isEmptyWeights: a file of size 0 that should have had something in it.
func isEmptyWeights(name string) bool {
	if path.Ext(name) == "" {
		return strings.Contains(name, "optim") || strings.Contains(name, "weights")
	}
	return suffix(weights...)(name)
}

// formatOf gives the format of a file, nil when it has none.
func formatOf(name string) *format {
	for i := range formats {
		if formats[i].names(name) {
			return &formats[i]
		}
	}
	return nil
}

// What a file that should be torch's may be instead.
const (
	errUnknown = flaw("neither a zip nor a pickle")
	errZeros   = flaw("begins with nothing but zeros")
)

func jsonOnly(_ *checker, s span) error { return checkJSON(s) }

// checkTorchOrOther: what is not torch's passes.
func checkTorchOrOther(c *checker, s span) error {
	if err := checkTorch(c, s); err != errUnknown {
		return err
	}
	return nil
}

// checkBin: raw data may begin like a pickle by chance, but not with all of
// torch's magic number.
func checkBin(c *checker, s span) error {
	head, err := s.head(24)
	if err != nil {
		return err
	}
	zip, err := looksZip(s)
	if err != nil || !zip && !bytes.Contains(head, []byte(legacyMagic)) {
		return err
	}
	return checkTorch(c, s)
}

// checkDistcp: one that no .metadata speaks for. Where there is one that says
// what belongs to the step, this was left behind by an earlier save, and what
// is wrong with it is minor.
func checkDistcp(c *checker, s span) error {
	zip, err := looksZip(s)
	if err == nil && !zip {
		err = checkTorch(c, s)
	} else if err == nil {
		err = checkTorchZips(c, s)
	}
	if c.spoken[path.Dir(c.path)] && isFlaw(err) {
		c.minor("not named by .metadata: %v", err)
		return nil
	}
	return err
}
