#!/usr/bin/env python3
"""Checkpoints by real PyTorch: what a training job's process does.

usage: torchjob.py save FILE             torch.save of a little model
       torchjob.py trainer DIR STEP      a directory as HF's Trainer writes it
       torchjob.py dcp DIR               torch DCP's FileSystemWriter, two gloo ranks
"""

import dataclasses
import json
import os
import sys
import tempfile
import traceback

import torch


def objects():
    torch.manual_seed(1)
    model = torch.nn.Linear(32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 32)).sum().backward()
    optimizer.step()
    return model, optimizer


def trainer(directory, step):
    os.makedirs(directory, exist_ok=True)
    model, optimizer = objects()
    for name, obj in {
        "pytorch_model.bin": model.state_dict(),
        "training_args.bin": {"lr": 1e-3},
        "optimizer.pt": optimizer.state_dict(),
        "scheduler.pt": {"last_epoch": step},
        "rng_state.pth": {"cpu": torch.get_rng_state()},
    }.items():
        torch.save(obj, os.path.join(directory, name))
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump({"hidden_size": 32}, f)
    with open(os.path.join(directory, "trainer_state.json"), "w") as f:
        json.dump({"epoch": 1.0, "global_step": step, "log_history": []}, f)


def rank(number, directory, store):
    # This PyTorch has dataclasses with defaults that Python 3.11 refuses for
    # want of a hash.
    plain = dataclasses.dataclass

    def hashed(cls=None, **kw):
        if cls is None:
            return lambda c: hashed(c, **kw)
        return plain(cls, **{"unsafe_hash": "__hash__" not in cls.__dict__, **kw})

    dataclasses.dataclass = hashed
    import torch.distributed as dist
    from torch.distributed._shard import checkpoint as dcp
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    dataclasses.dataclass = plain
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    torch.manual_seed(number)
    spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu", "rank:1/cpu"])
    state = {"weight": sharded_tensor.rand(spec, 64, 64), "bias": torch.ones(8)}
    dcp.save_state_dict(state, dcp.FileSystemWriter(directory, single_file_per_rank=True))
    dist.destroy_process_group()


def both(directory):
    scratch = tempfile.mkdtemp()
    children = []
    for number in (0, 1):
        pid = os.fork()
        if pid == 0:
            try:
                rank(number, directory, scratch + "/store")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    sys.exit(max(os.waitpid(pid, 0)[1] for pid in children) and 1)


torch.set_num_threads(1)
if sys.argv[1] == "save":
    torch.save(objects()[0].state_dict(), sys.argv[2])
elif sys.argv[1] == "trainer":
    trainer(sys.argv[2], int(sys.argv[3]))
else:
    both(sys.argv[2])
