"""What a run says before it starts: what was found, and what was chosen for it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nonlocalnn._errors import counted
from nonlocalnn.data import LabelledSamples
from nonlocalnn.tasks.recipe import Recipe

_MOST_CLASSES = 5


def opening_lines(
    asked: Recipe,
    recipe: Recipe,
    *,
    sizes: Sequence[int],
    facts: Mapping[str, Any],
    model: nn.Module,
    device: torch.device,
) -> list[str]:
    """Return lines for people: the data, the network, what was chosen, and what the rate is scaled by.

    Args:
        asked: The recipe as it was given.
        recipe: The same with all that it left open.
        sizes: Samples of training, validation and test.
        facts: What the task says of the data; "classes" and "sample_shape" are used where they are there.
        model: The network.
        device: Where it is.
    """
    found = recipe.data
    if "classes" in facts:
        names = list(facts["classes"])
        shown = ", ".join(names[:_MOST_CLASSES]) + (", ..." if len(names) > _MOST_CLASSES else "")
        found += f": {counted(len(names), 'class')} ({shown})"
    # Images of detectors have sizes of their own.
    shape_of_all = () if facts.get("task") == "detection" else facts.get("sample_shape", ())
    sides = [str(side) for side in shape_of_all]
    shortest, longest = facts.get("lengths", (None, None))
    if shortest != longest:
        sides[-1] = f"{shortest} to {longest}"
    # Pixels and voxels go without saying.
    shape = " x ".join(sides) + (" steps" if len(sides) == 2 else "")
    counts = "{} training, {} validation and {} test samples".format(*sizes)
    lines = [f"{found}; {counts}{f' of {shape}' if shape else ''}"]
    number = sum(parameter.numel() for parameter in model.parameters())
    assert recipe.batch_size is not None
    lines.append(
        f"{recipe.model or 'network'}: {number:,} parameters, on {device}; batches of {recipe.batch_size}, "
        f"{counted(sizes[0] // recipe.batch_size, 'step')} an epoch"
    )
    before, after = asked.to_dict(), recipe.to_dict()
    chosen = {name: value for name, value in after.items() if before[name] is None and value is not None}
    # Without batch normalisation there is nothing that its batches are for.
    if not recipe.norm_batches or not _has_statistics(model):
        chosen.pop("norm_batches", None)
    if chosen:
        lines.append(
            f"chosen, and yours to set: {', '.join(f'{name} {value}' for name, value in chosen.items())}"
        )
    if recipe.lr_batch_size not in (None, recipe.batch_size):
        lines.append(
            f"learning rate {recipe.scaled_lr:g}: {recipe.lr:g} is meant for batches of "
            f"{recipe.lr_batch_size}, and these are of {recipe.batch_size}"
        )
    return lines


def warn_of_missing_classes(splits: Mapping[str, Any]) -> None:
    """Warn once of the classes that have no sample in a split: no figure of that split tells of them.

    Data sets that are no labelled samples, and samples that may have several classes, are not looked at.

    Args:
        splits: The data set of each split, by its name.
    """
    lacking = []
    for split, data in splits.items():
        if not isinstance(data, LabelledSamples) or data.multi_label:
            continue
        there = set(data.targets)
        absent = [name for number, name in enumerate(data.classes) if number not in there]
        if absent:
            more = f" and {len(absent) - _MOST_CLASSES} more" if len(absent) > _MOST_CLASSES else ""
            lacking.append(f"no {split} sample is of class {', '.join(absent[:_MOST_CLASSES])}{more}")
    if lacking:
        warnings.warn(
            f"{'; '.join(lacking)}: what is not in training is never predicted, and no figure of the other "
            "splits tells of what they lack; add samples, or divide them yourself",
            UserWarning,
            # The caller of train().
            stacklevel=5,
        )


def _has_statistics(model: nn.Module) -> bool:
    norms = (each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm))
    return any(norm.track_running_stats for norm in norms)
