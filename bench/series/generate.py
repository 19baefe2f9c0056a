#!/usr/bin/python3
"""Train small models for real and keep six checkpoints of each, 20 steps apart.

usage: generate.py DIR [--series NAME,...] [--width 160] [--layers 6] [--saves 6] [--every 20]

DIR/<series>/<step>/ holds one checkpoint. Seeds are fixed, one thread computes:
the same machine and PyTorch give the same bytes. The text is what Python's own
library is written in.

  scratch   AdamW from random weights: fp32 and bf16 weights, optimizer
  finetune  the same at lr 1e-5, from weights that were trained before
  frozen    only the last block and the head train
  lora      rank-8 adapters beside frozen weights: weights with adapters, optimizer
  sgd       SGD with momentum
  master    bf16 weights that train by fp32 masters, which the optimizer file holds
  sparse    large embedding tables of which each batch touches few rows
  nothing   random and compressed bytes: must cost nothing
"""
import argparse
import glob
import json
import math
import os
import struct
import sysconfig
import zlib

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT, BATCH, VOCABULARY = 96, 12, 256
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = max(1, width // 32)

    def forward(self, x, mask):
        b, t, w = x.shape
        q, k, v = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(w, 2))
        a = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + mask
        x = x + self.out((a.softmax(-1) @ v).transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e9).triu(1), persistent=False)

    def forward(self, x):
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h, self.mask.to(h.dtype))
        return self.head(self.norm(h))


class Lora(nn.Module):
    """A frozen linear layer and what trains beside it."""

    def __init__(self, inner, rank=8):
        super().__init__()
        self.inner = inner
        self.a = nn.Parameter(torch.randn(rank, inner.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(inner.out_features, rank))

    def forward(self, x):
        return self.inner(x) + x @ self.a.T @ self.b.T


class Recommender(nn.Module):
    """Two wide tables and a little network over them."""

    def __init__(self, rows, width):
        super().__init__()
        self.users = nn.Embedding(rows, width, sparse=True)
        self.items = nn.Embedding(rows, width, sparse=True)
        self.net = nn.Sequential(nn.Linear(2 * width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, users, items):
        return self.net(torch.cat([self.users(users), self.items(items)], 1)).squeeze(1)


def corpus():
    files = sorted(glob.glob(sysconfig.get_path("stdlib") + "/*.py"))
    text = b"".join(open(f, "rb").read() for f in files)[: 8 << 20]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batch(text, rng):
    at = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=rng)
    rows = torch.stack([text[i : i + CONTEXT + 1] for i in at])
    return rows[:, :-1], rows[:, 1:]


def train(model, optimizer, text, steps, seed, after=None, step=None):
    """steps steps; after(i) is called behind each."""
    rng = torch.Generator().manual_seed(seed)
    for i in range(1, steps + 1):
        x, y = batch(text, rng)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float().reshape(-1, VOCABULARY), y.reshape(-1))
        loss.backward()
        (step or optimizer.step)()
        if after:
            after(i)
    return loss.item()


def save_safetensors(path, tensors):
    """The format of huggingface/safetensors, written by hand: a length, a JSON header, the bytes."""
    header, data, at = {}, [], 0
    for name, t in tensors.items():
        t = t.detach().contiguous()
        # NumPy has no bfloat16: the bits travel as int16.
        raw = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        header[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for raw in data:
            f.write(raw)


class Saver:
    def __init__(self, args, name):
        self.args, self.name = args, name

    def steps(self):
        return self.args.saves * self.args.every

    def every(self, write):
        """A hook for train: write(dir) at each save."""

        def after(i):
            if i % self.args.every == 0:
                dir = os.path.join(self.args.dir, self.name, "%06d" % i)
                os.makedirs(dir, exist_ok=True)
                write(dir)

        return after


def weights(dir, model, kinds=("fp32", "bf16")):
    state = model.state_dict()
    if "fp32" in kinds:
        save_safetensors(dir + "/model-fp32.safetensors", state)
    if "bf16" in kinds:
        save_safetensors(dir + "/model-bf16.safetensors", {k: v.bfloat16() for k, v in state.items()})


def plain(args, name, model, optimizer, text, seed):
    save = Saver(args, name)

    def write(dir):
        weights(dir, model)
        torch.save(optimizer.state_dict(), dir + "/optimizer.pt")

    return train(model, optimizer, text, save.steps(), seed, save.every(write))


def fresh(args):
    torch.manual_seed(1)
    return Transformer(args.width, args.layers)


def pretrained(args, text):
    """Weights that were trained once and are kept beside the series."""
    path = os.path.join(args.dir, "pretrained-%d-%d-%d.pt" % (args.width, args.layers, args.pretrain))
    model = fresh(args)
    if os.path.exists(path):
        model.load_state_dict(torch.load(path))
        return model
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-3), text, args.pretrain, 2)
    torch.save(model.state_dict(), path)
    return model


def scratch(args, name, text):
    model = fresh(args)
    return plain(args, name, model, torch.optim.AdamW(model.parameters(), lr=3e-4), text, 3)


def finetune(args, name, text):
    model = pretrained(args, text)
    return plain(args, name, model, torch.optim.AdamW(model.parameters(), lr=1e-5), text, 4)


def frozen(args, name, text):
    model = pretrained(args, text)
    for p in model.parameters():
        p.requires_grad = False
    live = [*model.blocks[-1].parameters(), *model.head.parameters()]
    for p in live:
        p.requires_grad = True
    return plain(args, name, model, torch.optim.AdamW(live, lr=1e-4), text, 5)


def lora(args, name, text):
    model = pretrained(args, text)
    for p in model.parameters():
        p.requires_grad = False
    torch.manual_seed(6)
    for block in model.blocks:
        for layer in ("qkv", "out", "up", "down"):
            setattr(block, layer, Lora(getattr(block, layer)))
    live = [p for p in model.parameters() if p.requires_grad]
    return plain(args, name, model, torch.optim.AdamW(live, lr=2e-4), text, 6)


def sgd(args, name, text):
    model = fresh(args)
    return plain(args, name, model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), text, 7)


def master(args, name, text):
    """Mixed precision as large runs do it: the optimizer works on fp32 copies."""
    model = fresh(args).bfloat16()
    live = list(model.parameters())
    copies = [p.detach().float().requires_grad_() for p in live]
    optimizer = torch.optim.AdamW(copies, lr=3e-4)

    def step():
        for p, c in zip(live, copies):
            c.grad = p.grad.float()
            p.grad = None
        optimizer.step()
        with torch.no_grad():
            for p, c in zip(live, copies):
                p.copy_(c)

    save = Saver(args, name)

    def write(dir):
        save_safetensors(dir + "/model-bf16.safetensors", model.state_dict())
        torch.save({"masters": copies, "optimizer": optimizer.state_dict()}, dir + "/optimizer.pt")

    return train(model, optimizer, text, save.steps(), 8, save.every(write), step)


def sparse(args, name, _):
    torch.manual_seed(9)
    rows, width = args.width * args.layers * 40, 32
    model = Recommender(rows, width)
    tables = [model.users.weight, model.items.weight]
    sparse_step, dense_step = torch.optim.SparseAdam(tables, lr=1e-3), torch.optim.AdamW(model.net.parameters(), lr=1e-3)
    save, rng, loss = Saver(args, name), torch.Generator().manual_seed(9), None

    def write(dir):
        weights(dir, model, ("fp32",))
        torch.save({"sparse": sparse_step.state_dict(), "dense": dense_step.state_dict()}, dir + "/optimizer.pt")

    after = save.every(write)
    for i in range(1, save.steps() + 1):
        # Few rows are popular, as in real logs.
        users, items = ((torch.rand(256, generator=rng) ** 3 * rows).long() for _ in range(2))
        wanted = ((users * 7 + items * 13) % 5 < 2).float()
        sparse_step.zero_grad()
        dense_step.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(users, items), wanted)
        loss.backward()
        sparse_step.step()
        dense_step.step()
        after(i)
    return loss.item()


def nothing(args, name, text):
    rng = torch.Generator().manual_seed(10)
    save = Saver(args, name)

    def write(dir):
        noise = torch.randint(256, (4 << 20,), generator=rng, dtype=torch.uint8).numpy().tobytes()
        at = int(torch.randint(1 << 20, (1,), generator=rng))
        with open(dir + "/random.bin", "wb") as f:
            f.write(noise)
        with open(dir + "/text.z", "wb") as f:
            f.write(zlib.compress(text[at:].to(torch.uint8).numpy().tobytes(), 6))

    after = save.every(write)
    for i in range(1, save.steps() + 1):
        after(i)
    return 0.0


SERIES = [scratch, finetune, frozen, lora, sgd, master, sparse, nothing]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("--series", default=",".join(f.__name__ for f in SERIES))
    p.add_argument("--width", type=int, default=160)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--saves", type=int, default=6)
    p.add_argument("--every", type=int, default=20)
    p.add_argument("--pretrain", type=int, default=200, help="steps behind the weights that are tuned")
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.makedirs(args.dir, exist_ok=True)
    text = corpus()
    by_name = {f.__name__: f for f in SERIES}
    for name in args.series.split(","):
        if name not in by_name:
            p.error("no series %s" % name)
        print("%s: last loss %.3f" % (name, by_name[name](args, name, text)), flush=True)


if __name__ == "__main__":
    main()
