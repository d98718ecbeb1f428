"""How well a network does on videos: one pass over their views, averaged for each video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from nonlocalnn._device import Precision, autocast_for, eval_mode
from nonlocalnn._readers import Batches, leave_signals_to_parent
from nonlocalnn.data.clips import check_positive
from nonlocalnn.data.video_sets import UNREADABLE, RandomClip, VideoClips
from nonlocalnn.evaluate import own_share, wrong_scores
from nonlocalnn.models import ResidualNetwork
from nonlocalnn.video_figures import (
    MultiLabelEvaluation,
    TopEvaluation,
    VideoEvaluation,
    multi_label_figures,
    top_figures,
)


@torch.no_grad()
def class_probabilities(
    model: nn.Module,
    clips: Tensor,
    *,
    multi_label: bool = False,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Tensor:
    """Return the mean over views of the class probabilities.

    They become probabilities first and are averaged then: a view that is sure weighs no more than another.
    A :class:`~nonlocalnn.models.ResidualNetwork` does the same among the places of a view, so that views
    larger than the crops of its training are looked at everywhere.

    Args:
        model: In eval mode; takes (B, 3, T, H, W) and returns scores, (B, K).
        clips: The views of one video, (V, 3, T, H, W), or of several, (B, V, 3, T, H, W).
        multi_label: Whether a video may show several classes, or none: sigmoid instead of softmax.
        batch_size: Views a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".

    Returns:
        float32 (K,) or (B, K), on the CPU.

    Raises:
        ValueError: ``clips`` has another rank, or ``batch_size`` is below 1.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, section 4, "Inference".
    """
    check_positive(batch_size=batch_size)
    if clips.dim() not in (5, 6):
        raise ValueError(
            f"clips must be (V, 3, T, H, W), or (B, V, 3, T, H, W); got shape {tuple(clips.shape)}"
        )
    found = []
    for views in clips.flatten(0, -5).split(batch_size):
        with autocast_for(precision, device):
            found.append(_probabilities(model, views.to(device), multi_label).float().cpu())
    return torch.cat(found).unflatten(0, clips.shape[:-4]).mean(-2)


def _probabilities(model: nn.Module, views: Tensor, multi_label: bool) -> Tensor:
    if isinstance(model, ResidualNetwork):
        return model.probabilities(views, multi_label=multi_label)
    scores = model(views).float()
    return scores.sigmoid() if multi_label else scores.softmax(1)


@torch.no_grad()
def evaluate_videos(
    model: nn.Module,
    dataset: VideoClips,
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    watch: Callable[[Batches], Iterable[Any]] | None = None,
) -> VideoEvaluation:
    """Run ``model`` over the views of each video in eval mode and return what it found.

    The model's train or eval state is put back afterwards.

    Args:
        model: Takes (B, 3, T, H, W) and returns scores, (B, K).
        dataset: Videos of K classes, by :class:`~nonlocalnn.data.video_sets.CentreClip` or
            :class:`~nonlocalnn.data.video_sets.Views`. Its ``max_broken`` says how many of them may be
            unreadable; those are listed and left out of every figure.
        batch_size: Views a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read the videos; 0 reads in this one.
        distributed: Share the videos among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the batches and gives them back one by one, to show how far it is.

    Raises:
        ValueError: The data set takes clips at random, no video can be read, or the model's scores do not
            match the classes.

    Memory: the views of ``batch_size`` / V videos, of one at least, twice, and up to three times more for
        each reading process.
    """
    sampling = dataset.sampling
    if isinstance(sampling, RandomClip):
        raise ValueError("videos are evaluated by CentreClip or Views, not by clips at random places")
    share = own_share(len(dataset), distributed)
    loader = DataLoader(
        Subset(dataset, share),
        batch_size=max(1, batch_size // sampling.num_views),
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_parent,
    )
    readable = [torch.empty(0, dtype=torch.bool)]
    found = [torch.empty(0, len(dataset.classes))]
    with eval_mode(model):
        for clips, targets in Batches(loader) if watch is None else watch(Batches(loader)):
            readable.append(targets.view(len(targets), -1)[:, 0] != UNREADABLE)
            views = clips.view(len(clips), -1, *dataset.sample_shape)[readable[-1]]
            if len(views) > 0:
                found.append(
                    class_probabilities(
                        model,
                        views,
                        multi_label=dataset.multi_label,
                        batch_size=batch_size,
                        device=device,
                        precision=precision,
                    )
                )
            if found[-1].shape[1] != len(dataset.classes):
                raise wrong_scores(found[-1].shape, len(dataset.classes))
    covered = torch.tensor(share, dtype=torch.int64)[torch.cat(readable)]
    return _summary(dataset, sampling.name, *_gather(covered, torch.cat(found), distributed))


def _gather(covered: Tensor, probabilities: Tensor, distributed: bool) -> tuple[Tensor, Tensor]:
    """Return what all ranks found, in the order of the videos, so that no figure depends on the ranks."""
    if not distributed:
        return covered, probabilities
    shares: list[tuple[Tensor, Tensor]] = [(covered, probabilities)] * dist.get_world_size()
    dist.all_gather_object(shares, (covered, probabilities))
    indices = torch.cat([share[0] for share in shares])
    order = indices.argsort()
    return indices[order], torch.cat([share[1] for share in shares])[order]


def _summary(dataset: VideoClips, views: str, covered: Tensor, probabilities: Tensor) -> VideoEvaluation:
    if len(covered) == 0:
        raise ValueError(f"none of the {len(dataset)} videos can be read: nonlocalnn data check says why")
    shown = torch.zeros(probabilities.shape, dtype=torch.bool)
    for row, index in zip(shown, covered.tolist(), strict=True):
        row[list(dataset.videos.target_sets[index])] = True
    figures: TopEvaluation | MultiLabelEvaluation
    if dataset.multi_label:
        figures = multi_label_figures(probabilities, shown, dataset.classes)
    else:
        figures = top_figures(probabilities, shown.int().argmax(1), dataset.classes)
    left_out = sorted(set(range(len(dataset))).difference(covered.tolist()))
    return VideoEvaluation(
        views=views,
        num_videos=len(dataset),
        unreadable=tuple(dataset.sample_id(index) for index in left_out),
        figures=figures,
    )
