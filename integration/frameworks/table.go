package frameworks

// row is one framework: how it writes step N, and what has to become of it.
//
// A script is one operation a line, done by a process of its own in the
// scope's directory (replay.go). N is the step; zip, rank0, rank1, meta are files that real
// PyTorch wrote; a content like rank0/1 is the first half of one.
type row struct {
	name   string
	script string
	rule   string
	reason string
	killed string // verdict that a step may have whose writer was killed, besides partial
	whole  int    // operations after which it is complete; 0: the last
}

var table = []row{
	{name: "torch.save", rule: "torch-save", reason: "commit-file", script: `
		open model_step_N.pt
		write model_step_N.pt zip
		close model_step_N.pt`},
	{name: "torch DCP, two ranks", rule: "torch-dcp", reason: "rename", script: `
		mkdir checkpoint-N
		open checkpoint-N/__0_0.distcp
		open checkpoint-N/__1_0.distcp
		write checkpoint-N/__0_0.distcp rank0/1
		fsync checkpoint-N/__0_0.distcp
		write checkpoint-N/__1_0.distcp rank1/1
		fsync checkpoint-N/__1_0.distcp
		write checkpoint-N/__0_0.distcp rank0/2
		close checkpoint-N/__0_0.distcp
		write checkpoint-N/__1_0.distcp rank1/2
		close checkpoint-N/__1_0.distcp
		open checkpoint-N/.metadata.tmp
		write checkpoint-N/.metadata.tmp meta
		fsync checkpoint-N/.metadata.tmp
		close checkpoint-N/.metadata.tmp
		rename checkpoint-N/.metadata.tmp checkpoint-N/.metadata`},
	{name: "HF Trainer", rule: "hf-trainer", reason: "commit-file", script: `
		mkdir checkpoint-N
		put checkpoint-N/config.json {}
		put checkpoint-N/pytorch_model.bin zip
		put checkpoint-N/optimizer.pt zip
		put checkpoint-N/scheduler.pt zip
		put checkpoint-N/rng_state_0.pth zip
		open checkpoint-N/trainer_state.json
		write checkpoint-N/trainer_state.json {"epoch":1.0,"global_step":N}
		close checkpoint-N/trainer_state.json
		put checkpoint-N/rng_state_1.pth zip`, whole: 9},
	{name: "safetensors >= 0.8", rule: "safetensors", reason: "rename", script: `
		open .tmpQx3
		truncate .tmpQx3 safetensors
		write .tmpQx3 safetensors
		close .tmpQx3
		chmod .tmpQx3
		rename .tmpQx3 model_step_N.safetensors`},
	{name: "safetensors < 0.8", rule: "safetensors-in-place", reason: "commit-file", script: `
		open model_step_N.safetensors
		truncate model_step_N.safetensors safetensors
		write model_step_N.safetensors safetensors
		close model_step_N.safetensors`},
	{name: "Lightning", rule: "lightning", reason: "commit-file", script: `
		open epoch=1-step=N.ckpt
		write epoch=1-step=N.ckpt zip
		close epoch=1-step=N.ckpt
		symlink epoch=1-step=N.ckpt last.ckpt`, whole: 3},
	{name: "Lightning FSDP", rule: "lightning-fsdp", reason: "commit-file", script: `
		mkdir epoch=1-step=N.ckpt
		put epoch=1-step=N.ckpt/__0_0.distcp rank0
		put epoch=1-step=N.ckpt/__1_0.distcp rank1
		put epoch=1-step=N.ckpt/.metadata.tmp meta
		rename epoch=1-step=N.ckpt/.metadata.tmp epoch=1-step=N.ckpt/.metadata
		open epoch=1-step=N.ckpt/meta.pt
		write epoch=1-step=N.ckpt/meta.pt zip
		close epoch=1-step=N.ckpt/meta.pt`},
	{name: "DeepSpeed", rule: "deepspeed", reason: "tracker", script: `
		mkdir global_stepN
		put global_stepN/mp_rank_00_model_states.pt zip
		put global_stepN/zero_pp_rank_0_mp_rank_00_optim_states.pt zip
		put global_stepN/zero_pp_rank_1_mp_rank_00_optim_states.pt zip
		put zero_to_fp32.py print(N)
		open latest
		write latest global_stepN
		close latest`},
	{name: "Megatron torch_dist", rule: "megatron", reason: "tracker", script: `
		mkdir iter_000000N
		put iter_000000N/__0_0.distcp rank0
		put iter_000000N/__1_0.distcp rank1
		put iter_000000N/.metadata.tmp meta
		rename iter_000000N/.metadata.tmp iter_000000N/.metadata
		put iter_000000N/metadata.json {"sharded_backend":"torch_dist"}
		open latest_checkpointed_iteration.txt
		write latest_checkpointed_iteration.txt N
		close latest_checkpointed_iteration.txt`},
	{name: "NVRx local, two ranks", rule: "nvrx-local", reason: "rename", script: `
		mkdir 0
		mkdir 1
		put 0/iter_000000N_0_local.dirty.pt zip
		put 1/iter_000000N_1_local.dirty.pt zip
		rename 0/iter_000000N_0_local.dirty.pt 0/iter_000000N_0_local.pt
		rename 1/iter_000000N_1_local.dirty.pt 1/iter_000000N_1_local.pt`},
	{name: "Orbax", rule: "orbax", reason: "rename", script: `
		mkdir N.orbax-checkpoint-tmp
		mkdir N.orbax-checkpoint-tmp/default
		put N.orbax-checkpoint-tmp/default/data words
		put N.orbax-checkpoint-tmp/commit_success.txt done
		rename N.orbax-checkpoint-tmp N`},
	{name: "NeMo", rule: "nemo", reason: "commit-file", script: `
		put gpt--step=N-last-unfinished -
		mkdir gpt--step=N-last
		mkdir gpt--step=N-last/weights
		put gpt--step=N-last/weights/__0_0.distcp rank0
		put gpt--step=N-last/weights/__1_0.distcp rank1
		put gpt--step=N-last/weights/.metadata meta
		unlink gpt--step=N-last-unfinished`},
	{name: "torchtitan", rule: "torchtitan", reason: "rename", script: `
		mkdir step-N
		put step-N/__0_0.distcp rank0
		put step-N/__1_0.distcp rank1
		put step-N/.metadata.tmp meta
		rename step-N/.metadata.tmp step-N/.metadata`},
	{name: "HF Trainer + DeepSpeed", rule: "hf-deepspeed", reason: "commit-file", script: `
		mkdir checkpoint-N
		mkdir checkpoint-N/global_stepN
		put checkpoint-N/global_stepN/mp_rank_00_model_states.pt zip
		put checkpoint-N/global_stepN/zero_pp_rank_0_mp_rank_00_optim_states.pt zip
		put checkpoint-N/latest global_stepN
		open checkpoint-N/trainer_state.json
		write checkpoint-N/trainer_state.json {"global_step":N}
		close checkpoint-N/trainer_state.json`},
	{name: "HF + FSDP", rule: "hf-fsdp", reason: "commit-file", script: `
		mkdir checkpoint-N
		mkdir checkpoint-N/pytorch_model_fsdp_0
		put checkpoint-N/pytorch_model_fsdp_0/__0_0.distcp rank0
		put checkpoint-N/pytorch_model_fsdp_0/__1_0.distcp rank1
		put checkpoint-N/pytorch_model_fsdp_0/.m meta
		rename checkpoint-N/pytorch_model_fsdp_0/.m checkpoint-N/pytorch_model_fsdp_0/.metadata
		mkdir checkpoint-N/optimizer_0
		put checkpoint-N/optimizer_0/__0_0.distcp rank0
		put checkpoint-N/optimizer_0/__1_0.distcp rank1
		put checkpoint-N/optimizer_0/.m meta
		rename checkpoint-N/optimizer_0/.m checkpoint-N/optimizer_0/.metadata
		open checkpoint-N/trainer_state.json
		write checkpoint-N/trainer_state.json {"global_step":N}
		close checkpoint-N/trainer_state.json`},
	{name: "hand-written loop", rule: "directory", reason: "quiet", killed: "unverified", script: `
		mkdir checkpoint_N
		put checkpoint_N/net.pt zip
		open checkpoint_N/adam.pt
		write checkpoint_N/adam.pt zip
		close checkpoint_N/adam.pt`},
}
