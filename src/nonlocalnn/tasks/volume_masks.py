"""One pass over volumes with masks: the classes of their voxels, compared on the grids of the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._device import Precision, eval_mode
from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.volumes.masked import MaskedVolumes
from nonlocalnn.data.volumes.reading import Sampled
from nonlocalnn.tasks.evaluation import gathered, own_share
from nonlocalnn.tasks.masks import Counts
from nonlocalnn.tasks.volume_figures import VolumeFigures, VolumeFound, dice_of, hausdorff_95
from nonlocalnn.tasks.volume_windows import best_of, score_slabs


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
    found, volumes = Counts(len(dataset.classes)), dict[int, VolumeFound]()
    with eval_mode(model):
        for number in share if watch is None else watch(list(share)):
            sampled, mask = dataset.open(number)
            truth = dataset.ids(mask, (0, 0, 0), mask.sides)
            of_grid = _on_grid(truth, sampled)
            labels = torch.empty(sampled.sides, dtype=torch.uint8)
            slabs = score_slabs(model, sampled, window=window, device=device, precision=precision)
            for first, scores in slabs:
                found.check(len(scores))
                last = first + scores.shape[1]
                labels[first:last] = best_of(scores)
                wanted = of_grid[None, first:last].long().to(scores.device)
                total = F.cross_entropy(scores[None], wanted, ignore_index=IGNORED, reduction="sum")
                found.losses.append((float(total), int((wanted != IGNORED).sum())))
            of_file = sampled.on_file(labels)
            volumes[number] = VolumeFound(
                name=dataset.volume_id(number),
                dice=dice_of(found.add(of_file, truth)),
                hausdorff=_distances(of_file, truth, sampled, len(dataset.classes)) if surfaces else None,
            )
    loss, confusion = found.over_ranks(f"voxel of the {dataset.num_volumes} volumes", distributed)
    everywhere = {number: each for part in gathered(volumes, distributed) for number, each in part.items()}
    return VolumeFigures(
        loss=loss,
        classes=dataset.classes,
        num_samples=dataset.num_volumes,
        confusion=confusion,
        volumes=tuple(everywhere[number] for number in sorted(everywhere)),
    )


def _distances(labels: Tensor, truth: Tensor, sampled: Sampled, num_classes: int) -> tuple[float, ...]:
    """Return how far the surfaces of each class are apart in what was found and in a mask, in mm."""
    labels = labels.where(truth != IGNORED, torch.tensor(IGNORED, dtype=torch.uint8))
    spacing = sampled.volume.spacing
    return tuple(
        hausdorff_95((labels == each).numpy(), (truth == each).numpy(), spacing)
        for each in range(num_classes)
    )


def _on_grid(ids: Tensor, sampled: Sampled) -> Tensor:
    """Return the ids of a file's voxels on the grid of a network: those of the nearest ones."""
    for axis in range(3):
        if sampled.sides[axis] != sampled.volume.sides[axis]:
            ids = ids.index_select(axis, sampled.nearest(axis, to_file=True))
    return ids
