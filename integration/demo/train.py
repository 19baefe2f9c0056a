#!/usr/bin/env python3
"""A small character-level transformer, trained with AdamW on this project's licence.

Nothing in here knows of stepfs. It saves a Hugging-Face-style checkpoint
directory every --every steps with torch.save, in the order in which the HF
Trainer writes it, and resumes from one.

--record FILE notes the SHA-256 of everything written, as `sha256sum -c` reads
it. What is hashed is a second copy, saved on another file system: the mount is
never asked what it holds. --losses FILE notes the loss of each step.
"""

import argparse
import hashlib
import json
import os
import tempfile

import torch
from torch import nn

CONFIG = {"vocab_size": 128, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 64}


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tokens = nn.Embedding(c["vocab_size"], c["n_embd"])
        self.positions = nn.Embedding(c["n_positions"], c["n_embd"])
        layer = nn.TransformerEncoderLayer(
            c["n_embd"], c["n_head"], 4 * c["n_embd"], dropout=0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, c["n_layer"])
        self.head = nn.Linear(c["n_embd"], c["vocab_size"])
        mask = torch.full((c["n_positions"], c["n_positions"]), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        n = x.shape[1]
        h = self.tokens(x) + self.positions(torch.arange(n))
        return self.head(self.blocks(h, mask=self.mask[:n, :n]))


class Checkpoint:
    """Writes the files of one checkpoint and notes what they hold."""

    def __init__(self, output, step, record):
        self.name = f"checkpoint-{step}"
        self.path = os.path.join(output, self.name)
        self.record = record
        self.lines = []
        os.makedirs(self.path, exist_ok=True)

    def torch(self, obj, name):
        # The name of the file is inside a torch.save file: same name, same bytes.
        with tempfile.TemporaryDirectory() as scratch:
            copy = os.path.join(scratch, name)
            torch.save(obj, copy)
            with open(copy, "rb") as f:
                self.note(name, f.read())
        torch.save(obj, os.path.join(self.path, name))

    def json(self, obj, name):
        text = json.dumps(obj, indent=2) + "\n"
        self.note(name, text.encode())
        with open(os.path.join(self.path, name), "w") as f:
            f.write(text)

    def note(self, name, data):
        self.lines.append(f"{hashlib.sha256(data).hexdigest()}  {self.name}/{name}\n")

    def done(self):
        if self.record:
            with open(self.record, "a") as f:
                f.writelines(self.lines)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--text", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--every", type=int, default=20)
    p.add_argument("--resume", metavar="CHECKPOINT")
    p.add_argument("--record")
    p.add_argument("--losses")
    args = p.parse_args()

    torch.manual_seed(1234)
    with open(args.text, "rb") as f:
        text = torch.tensor(list(f.read()), dtype=torch.long).clamp(max=CONFIG["vocab_size"] - 1)
    model = Model(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 10))
    state = {"global_step": 0, "log_history": []}

    if args.resume:
        load = lambda name: torch.load(os.path.join(args.resume, name))  # noqa: E731
        model.load_state_dict(load("pytorch_model.bin"))
        optimizer.load_state_dict(load("optimizer.pt"))
        scheduler.load_state_dict(load("scheduler.pt"))
        torch.set_rng_state(load("rng_state.pth")["cpu"])
        with open(os.path.join(args.resume, "trainer_state.json")) as f:
            state = json.load(f)
        print(f"  resumed from {args.resume} at step {state['global_step']}", flush=True)
    else:
        print(f"  {sum(q.numel() for q in model.parameters()) / 1e6:.1f} million parameters", flush=True)

    context = CONFIG["n_positions"]
    model.train()
    while state["global_step"] < args.steps:
        at = torch.randint(len(text) - context - 1, (4,))
        x = torch.stack([text[i : i + context] for i in at])
        y = torch.stack([text[i + 1 : i + context + 1] for i in at])
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        state["global_step"] += 1
        step = state["global_step"]
        state["log_history"].append({"step": step, "loss": loss.item()})
        if args.losses:
            with open(args.losses, "a") as f:
                f.write(f"{step} {loss.item()!r}\n")
        if step % args.every == 0:
            ckpt = Checkpoint(args.output, step, args.record)
            ckpt.json({"model_type": "stepfs-demo", **CONFIG}, "config.json")
            ckpt.torch(model.state_dict(), "pytorch_model.bin")
            ckpt.torch(optimizer.state_dict(), "optimizer.pt")
            ckpt.torch(scheduler.state_dict(), "scheduler.pt")
            ckpt.torch({"cpu": torch.get_rng_state()}, "rng_state.pth")
            ckpt.json(state, "trainer_state.json")
            ckpt.done()
            print(f"  step {step:4d}  loss {loss.item():.3f}  saved {ckpt.name}", flush=True)


if __name__ == "__main__":
    main()
