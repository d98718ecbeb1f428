"""Files of weights as each code base writes them, and one that would run something."""

import functools
import json
import os
import pickle
import struct

import torch
from safetensors.torch import save_file

import nonlocalnn as nl
from alexhex7 import TheirNetwork
from foreign_video_networks import MMAction2, Official, SlowFast
from nonlocalnn.train.state.checkpoint import Position, TrainingState

FILES = (
    "ours.safetensors",
    "alexhex7.pth",
    "x_8x8.pkl",
    "slowfast.pyth",
    "mmaction2.pth",
    "old.pth",
    "last.pt",
)
_TINY = {"blocks": {3: (0,)}, "lengths": (1, 1, 1, 1), "width": 2}
DEEP = {"deep": "["}


class Canary:
    """Whoever reads a pickle of it carelessly makes a folder."""

    def __init__(self, mark, how):
        self.mark, self.how = mark, how

    def __reduce__(self):
        callables = ((os.mkdir, (self.mark,)), (os.system, (f"mkdir {self.mark}",)),
                     (eval, (f"__import__('os').mkdir({self.mark!r})",)))  # fmt: skip
        return callables[self.how % 3]


@functools.cache
def states():
    """Return what each file holds, by its name."""
    torch.manual_seed(0)
    settings = {"classes": [str(number) for number in range(10)], "sample_shape": [3, 8, 32, 32], "stride": 2}
    return {
        FILES[0]: (nl.create_model("nl2_c2d_tiny", width=2).state_dict(), settings),
        FILES[1]: TheirNetwork("embedded_gaussian").state_dict(),
        FILES[2]: Official(**_TINY).state,
        FILES[3]: SlowFast(**_TINY).state,
        FILES[4]: MMAction2(**_TINY).state,
        FILES[5]: nl.create_model("nl_digits").state_dict(),
    }


def write_weights(folder, name, content):
    """Write a state dict as the code base of that file does."""
    path = folder / name
    if name == FILES[0]:
        config = {"name": "nl2_c2d_tiny", "num_classes": 10, "overrides": {"width": 2}}
        facts = {
            "format": "nonlocalnn",
            "config": json.dumps(config),
            "metadata": json.dumps(states()[name][1]),
        }
        save_file({key: value.contiguous() for key, value in content.items()}, path, metadata=facts)
    elif name == FILES[2]:
        arrays = {
            key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in content.items()
        }
        path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    else:
        container = {FILES[3]: "model_state", FILES[4]: "state_dict"}.get(name)
        torch.save({container: content} if container else content, path,
                   _use_new_zipfile_serialization=name != FILES[5])  # fmt: skip
    return path


@functools.cache
def whole_file(folder, name):
    """Return the bytes of a file that is right."""
    if name == FILES[6]:
        learner = {
            "model": {"weight": torch.arange(100.0)},
            "optimizer": {"state": {0: {"step": torch.ones(1)}}},
        }
        position = Position(epoch=2, step=1, sums={"loss": 0.5}, seconds=1.5, rows=[{"epoch": 1, "step": 3}])
        state = TrainingState({"seed": 1}, 9, 1, position, learner)
        torch.save({"format": 1, **state.to_values()}, folder / name)
        return (folder / name).read_bytes()
    content = states()[name]
    return write_weights(folder, name, content[0] if name == FILES[0] else content).read_bytes()


def with_header(data, path, value):
    """Return a safetensors file with a place in its header set to a value, however little it fits."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    facts = header["__metadata__"]
    if path[0] in ("config", "metadata"):
        inner = json.loads(facts[path[0]])
        if len(path) == 1:
            inner = value
        else:
            place = inner
            for word in path[1:-1]:
                place = place[word]
            place[path[-1]] = value
        facts[path[0]] = json.dumps(inner)
    elif path[0] == "format":
        facts["format"] = value
    elif path[0] == "header":
        header = value
    else:
        header[next(key for key in header if key != "__metadata__")][path[1]] = value
    text = json.dumps(header)
    if value is DEEP:
        text = text.replace(json.dumps(DEEP), "[" * 100_000).replace('{\\"deep\\": \\"[\\"}', "[" * 100_000)
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]
