"""One pass over volumes with masks: the classes of their voxels, compared on the grids of the files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._device import Precision, eval_mode
from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.volumes.masked import MaskedVolumes
from nonlocalnn.data.volumes.reading import Sampled
from nonlocalnn.tasks.evaluation import own_share
from nonlocalnn.tasks.figures import count_confusions
from nonlocalnn.tasks.volume_figures import VolumeFigures, VolumeFound, dice_of, hausdorff_95
from nonlocalnn.tasks.volume_windows import best_of, score_slabs

# Of one volume: its place, what was found, counts of voxels, the sum of the loss and over how many voxels.
_Found = tuple[int, VolumeFound, Tensor, float, int]


def evaluate_volumes(
    model: nn.Module,
    dataset: MaskedVolumes,
    *,
    window: int,
    surfaces: bool = True,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    distributed: bool = False,
    watch: Callable[[list[int]], Iterable[int]] | None = None,
) -> VolumeFigures:
    """Run a network over whole volumes, window by window, and compare on the grids of the masks' files.

    Args:
        model: Takes (1, C, D, H, W) and returns scores, (1, K, D, H, W). Its train or eval state is put back.
        dataset: Volumes with masks of K classes.
        window: Side of the windows, in voxels.
        surfaces: Whether distances between surfaces are measured, which takes some seconds a volume.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        distributed: Share the volumes among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the numbers of the volumes and gives them back one by one, to show how far it is.

    Raises:
        ValueError: The set is empty, the scores do not match the classes, or no voxel has a class.

    Memory: two bytes a voxel of one volume, and what
        :func:`~nonlocalnn.tasks.volume_windows.score_slabs` takes.
    """
    share = own_share(dataset.num_volumes, distributed)
    found: list[_Found] = []
    with eval_mode(model):
        for number in share if watch is None else watch(list(share)):
            found.append(
                (
                    number,
                    *_compared(
                        model,
                        dataset,
                        number,
                        window=window,
                        surfaces=surfaces,
                        device=device,
                        precision=precision,
                    ),
                )
            )
    if distributed:
        gathered: list[list[_Found]] = [found] * dist.get_world_size()
        dist.all_gather_object(gathered, found)
        found = [each for own in gathered for each in own]
    # In the order of the volumes and summed exactly, so that it does not depend on the ranks.
    found.sort(key=lambda each: each[0])
    confusion = torch.stack([each[2] for each in found]).sum(0)
    if not int(confusion.sum()):
        raise ValueError(
            f"no voxel of the {dataset.num_volumes} volumes has a class: all masks are {IGNORED}"
        )
    return VolumeFigures(
        loss=math.fsum(each[3] for each in found) / max(1, sum(each[4] for each in found)),
        classes=dataset.classes,
        num_samples=dataset.num_volumes,
        confusion=confusion,
        volumes=tuple(each[1] for each in found),
    )


def _compared(
    model: nn.Module,
    dataset: MaskedVolumes,
    number: int,
    *,
    window: int,
    surfaces: bool,
    device: torch.device | str,
    precision: Precision,
) -> tuple[VolumeFound, Tensor, float, int]:
    """Return what was found of one volume."""
    sampled, mask = dataset.open(number)
    num_classes = len(dataset.classes)
    truth = dataset.ids(mask, (0, 0, 0), mask.sides)
    of_grid = _on_grid(truth, sampled)
    labels = torch.empty(sampled.sides, dtype=torch.uint8)
    loss, num_known = 0.0, 0
    for first, scores in score_slabs(model, sampled, window=window, device=device, precision=precision):
        if len(scores) != num_classes:
            raise ValueError(
                f"the model's scores must be of the {num_classes} classes of this data set; got {len(scores)}"
                ": load a model that was trained on these classes"
            )
        last = first + scores.shape[1]
        labels[first:last] = best_of(scores)
        wanted = of_grid[first:last].long()
        loss += float(
            F.cross_entropy(
                scores.unsqueeze(0), wanted[None].to(scores.device), ignore_index=IGNORED, reduction="sum"
            )
        )
        num_known += int((wanted != IGNORED).sum())
    of_file = sampled.on_file(labels)
    known = truth != IGNORED
    confusion = count_confusions(truth[known].long(), of_file[known].long(), num_classes)
    distances = None
    if surfaces:
        of_file = of_file.where(known, torch.tensor(IGNORED, dtype=torch.uint8))
        spacing = sampled.volume.spacing
        distances = tuple(
            hausdorff_95((of_file == each).numpy(), (truth == each).numpy(), spacing)
            for each in range(num_classes)
        )
    name = dataset.volume_id(number)
    return VolumeFound(name=name, dice=dice_of(confusion), hausdorff=distances), confusion, loss, num_known


def _on_grid(ids: Tensor, sampled: Sampled) -> Tensor:
    """Return the ids of a file's voxels on the grid of a network: those of the nearest ones."""
    for axis in range(3):
        if sampled.sides[axis] != sampled.volume.sides[axis]:
            ids = ids.index_select(axis, sampled.nearest(axis, to_file=True))
    return ids
