"""A training job that rotates its checkpoints: it saves, and keeps the newest two.

usage: rotate.py DIR SAVES KEEP MB SNAPSHOTS

Every save is checkpoint-N/ with a model (all of it different from the save
before) and a trainer_state.json. After each one the newest three steps below
SNAPSHOTS must be whole. The last line says how long the slowest write took.
"""
import hashlib
import json
import os
import shutil
import sys
import time

import torch

PER_SAVE = 0.05  # s that a step of training takes here
PATIENCE = 60  # s for a step to be sealed


class Timed:
    """A file that knows how long its slowest write took."""

    slowest = 0.0

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.sum = hashlib.sha256()
        self.size = 0

    def write(self, data):
        data = memoryview(data).cast("B")
        self.sum.update(data)
        self.size += len(data)
        done = 0
        while done < len(data):
            begin = time.monotonic()
            done += os.write(self.fd, data[done : done + (1 << 20)])
            Timed.slowest = max(Timed.slowest, time.monotonic() - begin)
        return len(data)

    def flush(self):
        pass

    def close(self):
        begin = time.monotonic()
        os.close(self.fd)
        Timed.slowest = max(Timed.slowest, time.monotonic() - begin)


def digest(path):
    sum = hashlib.sha256()
    with open(path, "rb") as f:
        while data := f.read(1 << 20):
            sum.update(data)
    return sum.hexdigest()


def save(root, step, state):
    dir = f"{root}/checkpoint-{step}"
    os.mkdir(dir)
    f = Timed(f"{dir}/pytorch_model.bin")
    torch.save(state, f)
    f.close()
    with open(f"{dir}/trainer_state.json", "w") as j:
        json.dump({"global_step": step}, j)
    return f.sum.hexdigest(), f.size


def whole(snapshots, step, want, deep):
    path = f"{snapshots}/{step}/checkpoint-{step}/pytorch_model.bin"
    try:
        if os.stat(path).st_size != want[1]:
            return False
        return not deep or digest(path) == want[0]
    except FileNotFoundError:
        return False


def main():
    root, saves, keep, mb, snapshots = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    torch.manual_seed(1)
    state = {"weights": torch.randn(mb << 18)}
    written = {}
    for step in range(1, saves + 1):
        state["weights"].add_(1e-3)
        written[step] = save(root, step, state)
        if step > keep:
            shutil.rmtree(f"{root}/checkpoint-{step - keep}")
        time.sleep(PER_SAVE)
        # The newest three: the one just written may still be about to be sealed.
        for s in range(max(1, step - 3), step):
            end = time.monotonic() + PATIENCE
            while not whole(snapshots, s, written[s], deep=s == step - 1 or step == saves):
                if time.monotonic() > end:
                    sys.exit(f"after save {step}, step {s} is not whole: {os.listdir(snapshots)}")
                time.sleep(0.05)
        if step % 100 == 0:
            print(f"{step} saves, slowest write {Timed.slowest:.3f} s", flush=True)
    print(f"slowest write: {Timed.slowest:.3f} s")


main()
