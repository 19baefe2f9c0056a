#!/usr/bin/env python3
"""One rank of a training job that writes checkpoints with torch.save.

usage: save.py DIR SCRATCH RECORD RANK WORLD STEPS

Trains a little model and after each step writes DIR/checkpoint-<step>/: the
model and the optimizer of this rank, then (rank 0) trainer_state.json; and
overwrites DIR/last-<rank>.pt in place. The same objects are saved to SCRATCH,
a directory on another file system, and the hashes of those go to RECORD, as
sha256sum prints them: what was written is known without reading it back.
"""

import hashlib
import json
import os
import sys

import torch

directory, scratch, record = sys.argv[1:4]
rank, world, steps = map(int, sys.argv[4:7])

torch.set_num_threads(1)
torch.manual_seed(rank)
model = torch.nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, batch_first=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def save(obj, name, lines):
    # torch.save names the records in its zip after the file, so the copy has
    # to have the same name to have the same bytes.
    copy = os.path.join(scratch, str(rank), os.path.basename(name))
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    torch.save(obj, copy)
    torch.save(obj, os.path.join(directory, name))
    lines.append(f"{digest(copy)}  {name}\n")
    os.unlink(copy)


for step in range(1, steps + 1):
    loss = model(torch.randn(4, 32, 256)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    lines = []
    name = f"checkpoint-{step}"
    os.makedirs(os.path.join(directory, name), exist_ok=True)
    save(model.state_dict(), f"{name}/model-{rank}-of-{world}.pt", lines)
    save(optimizer.state_dict(), f"{name}/optimizer-{rank}.pt", lines)
    save({"step": step, "model": model.state_dict()}, f"last-{rank}.pt", [])
    if rank == 0:
        state = json.dumps({"global_step": step, "loss": loss.item()})
        with open(os.path.join(directory, name, "trainer_state.json"), "w") as f:
            f.write(state)
        lines.append(f"{hashlib.sha256(state.encode()).hexdigest()}  {name}/trainer_state.json\n")
    with open(record, "a") as f:
        f.writelines(lines)
