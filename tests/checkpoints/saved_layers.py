"""A small layer, and what comes back of a file that holds its weights among other things."""

import torch
from torch import nn

import nonlocalnn as nl


def layer():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def loaded(content, tmp_path, entry=None, **settings):
    torch.save(content, tmp_path / "m.pth", **settings)
    return nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2), entry=entry)
