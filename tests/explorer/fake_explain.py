"""A stand-in for what explains: the input's name says what happens. The worker process imports it by name."""

import errno
import os
import time
from contextlib import contextmanager

from torch.nn.modules.conv import _ConvNd

from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.explorer.explain import explain_file

# Held on purpose, until the process ends.
HELD = []


@contextmanager
def count_passes(model):
    """A list that grows by one with each forward pass of a network: by each run of one of its layers."""
    # Of no block: maps are computed by a block's own layers once more.
    within = {part for block in nonlocal_blocks(model).values() for part in block.modules()}
    first = next(part for part in model.modules() if isinstance(part, _ConvNd) and part not in within)
    passes = []
    handle = first.register_forward_hook(lambda *_: passes.append(1))
    yield passes
    handle.remove()


def explain(loaded, path, *, title, model):
    content = path.read_bytes()
    word, _, number = title.partition(".")[0].partition("-")
    if word == "sleep":
        time.sleep(float(number) / 1000)
    elif word == "hold":
        while not (path.parent / "go").exists():
            time.sleep(0.01)
    elif word == "crash":
        os._exit(7)
    elif word == "memory":
        HELD.append(b"x" * (int(number) << 20))
        time.sleep(60)
    elif word == "refused":
        raise ValueError(f"cannot read image {path}: it is\nno good")
    elif word == "leak":
        raise ValueError(f"cannot write {path.parent}/beside")
    elif word == "bug":
        raise RuntimeError(f"a bug at {path}")
    elif word == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", f"{path.parent}/0.json")
    elif word == "full":
        raise MemoryError
    elif word == "nan":
        return {"format": 2, "title": title, "value": float("nan")}
    elif word == "real":
        return explain_file(loaded, path, title=title, model=model)
    elif word == "passes":
        with count_passes(loaded.model) as passes:
            document = explain_file(loaded, path, title=title, model=model)
        return {**document, "passes": len(passes)}
    return {
        "format": 2,
        "title": title,
        "model": model,
        "bytes": len(content),
        "process": os.getpid(),
        "at": time.time(),
        "padding": "x" * int(number) if word == "large" else "",
        "blocks": [],
    }
