package rules_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stepfs/snapshot/rules"
)

// Which step a path belongs to, and by which rules.
func TestMatch(t *testing.T) {
	s := rules.New(nil)
	for _, c := range []struct{ path, scope, step, first string }{
		{"checkpoint-0100/", "", "100", "hf-deepspeed"},
		{"run/a/checkpoint-100/global_step99/x", "run/a", "100", "hf-deepspeed"},
		{"3/checkpoint-7/model.pt", "3", "7", "hf-deepspeed"},
		{"3/model.pt", "", "3", "orbax"},
		{"0/iter_0000010_0_local.dirty.pt", "", "10", "nvrx-local"},
		{"exp/1/iter_0000010_1_local.pt", "exp", "10", "nvrx-local"},
		{"iter_0000010/__0_0.distcp", "", "10", "megatron"},
		{"release/common.pt", "", "release", "megatron"},
		{"params_0005/", "", "5", "orbax"},
		{"gpt--val_loss=1.25-step=77-consumed_samples=8.0/", "", "77", "nemo"},
		{"epoch=1-step=77.ckpt", "", "77", "lightning"},
		{"epoch=1-step=77-v1.ckpt", "", "77", "lightning"},
		{"epoch=1-step=77.ckpt/meta.pt", "", "77", "nemo"},
		{"model_step_12.pt", "", "12", "renamed-file"},
		{"model-step=12.safetensors", "", "12", "safetensors"},
		{"step-5.orbax-checkpoint-tmp/x", "", "", ""},
		{"tmp-checkpoint-5/x", "", "", ""},
		{"run/.stepfs-import-0123456789abcdef/global_step9/x", "", "", ""},
		{".stepfs-restore-0123456789abcdef/checkpoint-9/", "", "", ""},
		{"3/.stepfs-import-0123456789abcdef/checkpoint-7/x", "", "3", "orbax"},
		{"pytorch_model-00001-of-00002.bin", "", "", ""},
		{"99999999999999999999/x", "", "", ""},
		{"checkpoint--5/", "", "", ""},
		{"logs/x", "", "", ""},
	} {
		path, dir := strings.CutSuffix(c.path, "/")
		parts := strings.Split(path, "/")
		m, ok := s.Match(parts, dir)
		if ok != (c.step != "") || ok && (strings.Join(parts[:m.Scope], "/") != c.scope || m.Step != c.step || m.Rules[0].Name != c.first) {
			t.Errorf("%s: %v %+v", c.path, ok, m)
		}
	}
}

func TestBadRules(t *testing.T) {
	for text, want := range map[string]string{
		"[a]\nstep = x(\\d+)/\ncolour = red":                      ":3: bad rule: there is no key \"colour\"",
		"[a]\n\nstep = x(\\d+/":                                   ":3: bad rule: error parsing regexp",
		"[a]\nstep = x\\d+/":                                      ":2: bad rule: step captures nothing",
		"[a]\nstep = (x)(\\d+)/":                                  ":2: bad rule: step has several groups",
		"step = x(\\d+)/":                                         ":1: bad rule: a rule begins with its name",
		"[a]\n[b]\nstep = (x)":                                    ":2: bad rule: (the rule of line 1) a has no step",
		"[a]\nstep = (x)\n[a]\nstep = (x)":                        ":3: bad rule: there is a rule a already",
		"[a]\nstep = (x)\ncommit = touch it":                      ":3: bad rule: \"touch it\" is not a commit",
		"[a]\nstep = (x)\ncommit = close ../../etc":               ":3: bad rule: \"../../etc\" is neither",
		"[a]\nstep = (x)\ncommit = close ../done":                 ":3: bad rule: \"../done\" beside the step does not say which one",
		"[a]\nstep = (x)\ncommit = tracker latest {name}":         ":3: bad rule: a tracker is beside the step",
		"[a]\nstep = (x)\nsign = [":                               ":3: bad rule: \"[\": syntax error in pattern",
		"[a]\nstep = (x)\nweak = perhaps":                         ":3: bad rule: weak is yes",
		"[a]\nstep = (x)\nreason = because":                       ":3: bad rule: there is no reason",
		"[a]\nstep = (x)\nnumber = trainer_state.json":            ":3: bad rule: number is FILE:FIELD",
		"[a]\nstep = (x)\nwhen = committed":                       ":1: bad rule: a: when = committed wants",
		"[a\nstep = (x)":                                          ":1: bad rule: \"[a\" is not [name]",
		"[a]\nstep":                                               ":2: bad rule: \"step\" is not key = value",
		"[a]\nstep =":                                             ":2: bad rule: step says nothing",
		"[a]\nstep = (x)\n" + strings.Repeat("x", 70000) + " = y": ":3: bad rule",
	} {
		_, err := rules.Parse("own", text)
		if !errors.Is(err, rules.ErrBad) || !strings.HasPrefix(fmt.Sprint(err), "own"+want) {
			t.Errorf("%.40q: %v, want own%s", text, err, want)
		}
	}
}

// A rule of one's own goes before those that are built in.
func TestOwnRules(t *testing.T) {
	own, err := rules.Parse("own", "[mine]\nstep = ckpt/s(\\d+)/\ncommit = close DONE\n[torch-save]\nstep = w(\\d+)\\.bin\nreason = explicit\n")
	if err != nil {
		t.Fatal(err)
	}
	s := rules.New(own)
	if m, ok := s.Match([]string{"run", "ckpt", "s007", "w"}, false); !ok || m.Step != "7" || m.Scope != 1 || m.Parts != 2 || m.Rules[0].Name != "mine" {
		t.Errorf("%v %+v", ok, m)
	}
	if m, ok := s.Match([]string{"w5.bin"}, false); !ok || m.Step != "5" || !m.Rules[0].Own || m.Rules[0].Reason != rules.ReasonExplicit {
		t.Errorf("%v %+v", ok, m)
	}
	if len(s.All()) != len(rules.New(nil).All())+1 {
		t.Error("a rule of the same name did not take the place of the built-in one")
	}
}

func TestLacks(t *testing.T) {
	s := rules.New(nil)
	for _, c := range []struct {
		rule, want string
		files      []string
	}{
		{"hf-fsdp", "", []string{"pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "trainer_state.json"}},
		{"hf-fsdp", "optimizer_0/.metadata is missing", []string{"pytorch_model_fsdp_0/.metadata", "optimizer_0/__0_0.distcp"}},
		{"hf-deepspeed", "latest is missing", []string{"global_step5/mp_rank_00_model_states.pt"}},
		{"hf-deepspeed", "global_step5/*_model_states.pt is missing", []string{"latest", "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"}},
		{"nvrx-local", "0/iter_0000010_0_local.dirty.pt is not finished", []string{"0/iter_0000010_0_local.dirty.pt"}},
		{"torch-save", "", nil},
	} {
		if got := s.Named(c.rule).Lacks(c.files); got != c.want {
			t.Errorf("%s with %v: %q, want %q", c.rule, c.files, got, c.want)
		}
	}
}
