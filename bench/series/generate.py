#!/usr/bin/python3
"""Train small models for real and keep some checkpoints of each.

usage: generate.py DIR [--series NAME,...] [--width 128] [--layers 4] [--saves 6] [--every 20]

DIR/<series>/<step>/ holds one checkpoint. Seeds are fixed, one thread computes:
the same machine and PyTorch give the same bytes. The text is what Python's own
library is written in, in words: the usual ones have a token each, as they do in
a real vocabulary, and so most rows of the embedding rest in most steps.

  scratch   AdamW from random weights: fp32 and bf16 weights, optimizer
  near      the same, saved every second step
  far       the same, saved three times as far apart
  finetune  the same at lr 1e-5, from weights that were trained before
  frozen    only the last block and the head train
  lora      rank-8 adapters beside frozen weights: weights with adapters, optimizer
  sgd       SGD with momentum
  master    bf16 weights that train by fp32 masters, which the optimizer file holds
  half      fp16 weights, the head tied to the embedding and written twice
  shards    two ranks' files as torch.distributed.checkpoint writes them: tensors
            behind one another, each with a torch.save of its own, and records
            among them that grow, so that everything shifts
  sparse    large embedding tables of which each batch touches few rows
  quantised what finetune would export: int8 with a scale for each row, and 4 bits
  nothing   random bytes, compressed text, images: must cost nothing
"""
import argparse
import collections
import glob
import io
import json
import math
import os
import re
import struct
import sysconfig
import time
import zlib

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT, BATCH = 64, 8
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
          torch.int8: "I8", torch.uint8: "U8"}


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
    def __init__(self, vocabulary, width, layers, tied=False):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
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


def library():
    files = sorted(glob.glob(sysconfig.get_path("stdlib") + "/*.py"))
    return b"".join(open(f, "rb").read() for f in files)[: 4 << 20]


def corpus(vocabulary):
    """The library as tokens; 0 is any word that is not among the most frequent."""
    words = re.findall(rb"\w+|[^\S\n]+|.|\n", library())
    number = {w: i + 1 for i, (w, _) in enumerate(collections.Counter(words).most_common(vocabulary - 1))}
    return torch.tensor([number.get(w, 0) for w in words])


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
        loss = F.cross_entropy(model(x).float().flatten(0, 1), y.flatten())
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
    def __init__(self, args, name, saves=None, every=None):
        self.args, self.name = args, name
        self.saves, self.apart = saves or args.saves, every or args.every

    def steps(self):
        return self.saves * self.apart

    def every(self, write):
        """A hook for train: write(dir) at each save."""

        def after(i):
            if i % self.apart == 0:
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
    if "fp16" in kinds:
        save_safetensors(dir + "/model-fp16.safetensors", {k: v.half() for k, v in state.items()})


def plain(args, name, model, optimizer, text, seed, kinds=("fp32", "bf16"), saves=None, every=None):
    save = Saver(args, name, saves, every)

    def write(dir):
        weights(dir, model, kinds)
        torch.save(optimizer.state_dict(), dir + "/optimizer.pt")

    return train(model, optimizer, text, save.steps(), seed, save.every(write))


def fresh(args):
    torch.manual_seed(1)
    return Transformer(args.vocabulary, args.width, args.layers)


def pretrained(args, text):
    """Weights that were trained once and are kept beside the series."""
    path = os.path.join(args.dir, "pretrained-%d-%d-%d-%d.pt" % (args.vocabulary, args.width, args.layers, args.pretrain))
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


def near(args, name, text):
    model = pretrained(args, text)
    return plain(args, name, model, torch.optim.AdamW(model.parameters(), lr=3e-4), text, 13, saves=(2 * args.saves + 2) // 3, every=2)


def far(args, name, text):
    model = fresh(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    return plain(args, name, model, optimizer, text, 14, saves=(args.saves + 1) // 2, every=3 * args.every)


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


def half(args, name, text):
    torch.manual_seed(1)
    model = Transformer(args.vocabulary, args.width, args.layers, tied=True)
    return plain(args, name, model, torch.optim.AdamW(model.parameters(), lr=3e-4), text, 11, ("fp16",))


def shards(args, name, text):
    model = fresh(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    save, seen = Saver(args, name), []

    def records():
        yield from model.state_dict().items()
        for (key, _), state in zip(model.named_parameters(), optimizer.state.values()):
            for kind in ("exp_avg", "exp_avg_sq"):
                yield "optimizer." + key + "." + kind, state[kind]

    def write(dir):
        seen.extend(torch.randint(1 << 40, (997,)).tolist())  # what a loader remembers
        places = {}
        for rank in range(2):
            with open("%s/__%d_0.distcp" % (dir, rank), "wb") as f:
                pieces = [("loader", seen)] if rank == 0 else []
                for key, t in records():
                    rows = t.chunk(2) if t.dim() > 0 and len(t) > 1 else [t]
                    if rank < len(rows):
                        pieces.append((key, rows[rank].clone()))
                for key, value in pieces:
                    out = io.BytesIO()
                    torch.save(value, out)
                    places[key, rank] = (f.tell(), out.tell())
                    f.write(out.getvalue())
        with open(dir + "/.metadata", "wb") as f:  # torch.save itself refuses the name
            torch.save(places, f)

    return train(model, optimizer, text, save.steps(), 12, save.every(write))


def quantised(args, name, text):
    model = pretrained(args, text)
    optimizer, save = torch.optim.AdamW(model.parameters(), lr=1e-5), Saver(args, name)

    def write(dir):
        whole, small = {}, {}
        for key, t in model.state_dict().items():
            if t.dim() != 2:
                whole[key] = small[key] = t.half()
                continue
            scale = t.abs().amax(1, keepdim=True).clamp(min=1e-8)
            whole[key], whole[key + ".scale"] = (t / scale * 127).round().to(torch.int8), (scale / 127).half()
            groups = t.reshape(-1, 16)
            scale = groups.abs().amax(1, keepdim=True).clamp(min=1e-8)
            q = (groups / scale * 7).round().add(8).to(torch.uint8)
            small[key], small[key + ".scale"] = q[:, ::2] | q[:, 1::2] << 4, (scale / 7).half()
        save_safetensors(dir + "/model-int8.safetensors", whole)
        save_safetensors(dir + "/model-int4.safetensors", small)

    return train(model, optimizer, text, save.steps(), 4, save.every(write))


def sparse(args, name, _):
    torch.manual_seed(9)
    rows, width = args.width * args.layers * 24, 32
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


def png(width, height, rng):
    """A picture with soft shapes and the noise of a sensor, as PNG."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = []
    for _ in range(3):
        a, b, c = torch.rand(3, generator=rng).tolist()
        planes.append(128 + 90 * torch.sin(x * a / 40 + b * 6) * torch.cos(y * c / 40))
    image = torch.stack(planes, 2) + torch.randn(height, width, 3, generator=rng) * 4
    rows = F.pad(image.clamp(0, 255).to(torch.uint8).reshape(height, -1), (1, 0)).numpy().tobytes()

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows, 6)) + part(b"IEND", b"")


def nothing(args, name, _):
    rng, text = torch.Generator().manual_seed(10), library()
    save = Saver(args, name)

    def write(dir):
        at = int(torch.randint(1 << 20, (1,), generator=rng))
        for file, content in (
            ("random.bin", torch.randint(256, (4 << 20,), generator=rng, dtype=torch.uint8).numpy().tobytes()),
            ("text.z", zlib.compress(text[at:], 6)),
            ("image.png", png(1200, 800, rng)),
        ):
            with open(os.path.join(dir, file), "wb") as f:
                f.write(content)

    after = save.every(write)
    for i in range(1, save.steps() + 1):
        after(i)
    return 0.0


SERIES = [scratch, near, far, finetune, frozen, lora, sgd, master, half, shards, sparse, quantised, nothing]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("--series", default=",".join(f.__name__ for f in SERIES))
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--vocabulary", type=int, default=2048)
    p.add_argument("--saves", type=int, default=6)
    p.add_argument("--every", type=int, default=20)
    p.add_argument("--pretrain", type=int, default=200, help="steps behind the weights that are tuned")
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.makedirs(args.dir, exist_ok=True)
    text = corpus(args.vocabulary)
    by_name = {f.__name__: f for f in SERIES}
    for name in args.series.split(","):
        if name not in by_name:
            p.error("no series %s" % name)
        start, loss = time.monotonic(), by_name[name](args, name, text)
        print("%s: last loss %.3f, %.0f s" % (name, loss, time.monotonic() - start), flush=True)


if __name__ == "__main__":
    main()
