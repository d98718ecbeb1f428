"""``nonlocalnn doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, default_collate

from nonlocalnn._errors import check_whole
from nonlocalnn._files import json_text
from nonlocalnn._progress import progress
from nonlocalnn.affinity.batches import real_by_sizes
from nonlocalnn.affinity.doctor import examine
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.cli.common import check_classes, load_model
from nonlocalnn.cli.flags.doctor import parser
from nonlocalnn.data import LabelledSamples
from nonlocalnn.data.sequences.padding import moves_between
from nonlocalnn.inference import Detector
from nonlocalnn.tasks.choice import task_of
from nonlocalnn.tasks.recipe import Recipe

# Samples of a batch, where they are of one size or can be padded. Differences between batches tell a change
# from chance, so that many small ones are better than few large ones.
_BATCH_SIZE = 8
_LEAST_BATCHES = 4


def run(words: Sequence[str]) -> int:
    """Print what is found of each block, in words or as JSON, and what to try."""
    args = parser().parse_args(words)
    check_whole("samples", args.samples, least=2)
    loaded = load_model("doctor", args.run, device=args.device)
    if isinstance(loaded, Detector):
        raise ValueError(
            f"{args.run} is a detector, whose loss is made in train mode only: doctor takes classifiers and "
            "segmentation networks; nonlocalnn explain shows the maps of a detector"
        )
    if not nonlocal_blocks(loaded.model):
        raise ValueError(
            f"{args.run} has no non-local block that could be examined: nl.insert_nonlocal_ puts one in, and "
            "train takes --insert"
        )
    name = args.data or loaded.recipe.get("data")
    if name is None:
        raise ValueError("--data is needed: the checkpoint does not say what it was trained on")
    data: Any = loaded.load_dataset(name, args.split, data_dir=args.data_dir)
    if assumption := check_classes(loaded.classes, data.classes, name):
        print(f"nonlocalnn doctor: {assumption}", file=sys.stderr)
    batches = _batches(data, args.samples)
    task = task_of(Recipe.from_dict({"data": name, "class_weights": loaded.recipe.get("class_weights")}))
    flat: list[int] = []
    found = examine(
        loaded.model,
        progress(batches, total=len(batches), label="doctor"),
        lambda model, batch: task.loss(model, batch[:2] if args.no_masks else batch),
        real=_moving(flat) if isinstance(data, LabelledSamples) and data.any_length else real_by_sizes,
    )
    if sum(flat):
        print(
            f"nonlocalnn doctor: {sum(flat)} of {found.num_samples} samples begin or end with steps that "
            "repeat one value, which counts as padding here",
            file=sys.stderr,
        )
    if args.json:
        about = {"model": str(args.run), "data": name, "split": args.split}
        print(json_text({**about, **found.to_dict()}, indent=2))
    else:
        print(f"{args.run} on {name}/{args.split}, {found}")
    return 0


def _batches(data: Any, number: int) -> DataLoader[Any]:
    """Return a loader of some samples, from all over a split: folders have one class after another.

    Raises:
        ValueError: There are fewer than two samples.
    """
    places = torch.linspace(0, len(data) - 1, min(number, len(data))).round().long().tolist()
    if len(places) < 2:
        raise ValueError(
            f"the split must hold at least 2 samples, to tell a change from chance; got {len(places)}: "
            "choose another --split"
        )
    # Batches of one class each would differ by their classes, and hide what a block changes.
    mixed = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    places = [places[each] for each in mixed]
    if isinstance(data, LabelledSamples):
        size = max(1, min(_BATCH_SIZE, len(places) // _LEAST_BATCHES))
        return DataLoader(Subset(data, places), batch_size=size, collate_fn=data.collate)
    # Whole images differ in size.
    return DataLoader(Subset(data, places), batch_size=1, collate_fn=_of_one_size)


def _of_one_size(items: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return an image and its mask as a batch; the mask at the size to which the image was brought."""
    image, mask = default_collate(list(items))
    if mask.shape[1:] != image.shape[2:]:
        mask = F.interpolate(mask[:, None].float(), size=image.shape[2:], mode="nearest")[:, 0].to(mask.dtype)
    return [image, mask]


def _moving(flat: list[int]) -> Callable[[Sequence[Tensor]], Tensor | None]:
    """Return what tells which steps of a batch are real; it adds to ``flat`` how many samples have others."""

    def real(batch: Sequence[Tensor]) -> Tensor:
        moving = moves_between(batch[0], batch[2] if len(batch) > 2 else None)
        flat.append(int((~moving).any(1).sum()))
        by_sizes = real_by_sizes(batch)
        return moving if by_sizes is None else moving & by_sizes

    return real
