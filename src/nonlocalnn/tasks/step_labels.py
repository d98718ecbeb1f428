"""Labels of steps: a class for each step of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._device import Precision, autocast_for, eval_mode
from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.sequences.steps import LabelledSteps, load_steps
from nonlocalnn.tasks.evaluation import Watch, batches_of, own_share
from nonlocalnn.tasks.mask_figures import StepFigures
from nonlocalnn.tasks.masks import Counts
from nonlocalnn.tasks.networks import check_task, check_unset
from nonlocalnn.tasks.probabilities import check_finite, real_part
from nonlocalnn.tasks.segmentation import PlacesTask, pixel_loss, share_right

# What a CPU trains in minutes.
_SMALL_NETWORK = "nl_unet1d_tiny"
_BATCH = 16


@dataclass(frozen=True)
class StepLabelsTask(PlacesTask):
    """Cross-entropy over the steps that have a class, and the mean F1 over the classes.

    What a batch is padded with is no step: it is in no loss and in no figure, and no layer sees it.

    Args:
        recipe: Names the data and the network. The attribute has a network where it names none.

    Raises:
        ValueError: The network gives no class for each step, or a setting has no effect on sequences.
    """

    metric: ClassVar[str] = "mean_f1"
    # Of the split that was read first: by its statistics all are normalised.
    _train: list[LabelledSteps] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        check_unset(recipe, ("channels", "image_size", "scales", "resize", "window"), "sequences")
        model = _SMALL_NETWORK if recipe.model is None else recipe.model
        check_task(model, "segmentation", of="sequence")
        object.__setattr__(self, "recipe", replace(recipe, model=model))

    def data(self, split: str) -> LabelledSteps:
        """Return a split of the recipe's data set, each channel normalised as the training's steps are.

        Raises:
            ValueError: It has other channels than the training data.
        """
        recipe = self.recipe
        if not self._train:
            training = load_steps(recipe.data_dir, "train", augment=recipe.augment)
            training.mean, training.standard_deviation = training.statistics()
            self._train.append(training)
        training = self._train[0]
        if split == "train":
            return training
        found = load_steps(recipe.data_dir, split, channels=training.channel_names)
        if found.channels != training.channels:
            raise ValueError(
                f"all sequences must have as many channels; those for training have {training.channels}, and "
                f"those of {split!r} {found.channels}"
            )
        found.mean, found.standard_deviation = training.mean, training.standard_deviation
        return found

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the steps that have a class, in nats, and the share that is right.

        Args:
            model: The network.
            batch: Sequences, (B, C, N), classes, (B, N), and where they differ the lengths, (B, 1).
        """
        sequences, ids, *lengths = batch
        with real_part(sequences, lengths):
            scores = model(sequences)
        ids = ids.long()
        right = {"step_accuracy": share_right(scores, ids)}
        return pixel_loss(scores, ids, self.recipe.class_weights), right

    def evaluate(
        self, model: nn.Module, data: LabelledSteps, *, device: torch.device, distributed: bool
    ) -> dict[str, Any]:
        """Return the figures of :func:`evaluate_steps`."""
        return evaluate_steps(
            model,
            data,
            device=device,
            precision=self.recipe.precision,
            num_workers=self.recipe.num_workers,
            distributed=distributed,
        ).to_dict()

    def metadata(self, data: LabelledSteps) -> dict[str, Any]:
        """See :meth:`PlacesTask.metadata`."""
        return {
            **super().metadata(data),
            "mean": data.mean,
            "standard_deviation": data.standard_deviation,
            "lengths": list(data.lengths),
            "channel_names": list(data.channel_names),
        }


@torch.no_grad()
def evaluate_steps(
    model: nn.Module,
    dataset: LabelledSteps,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    watch: Watch | None = None,
) -> StepFigures:
    """Run a network over sequences, and compare the class of each step that has one.

    Args:
        model: Takes (B, C, N) and returns scores, (B, K, N). Its train or eval state is put back.
        dataset: Sequences with steps of K classes.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read; 0 reads in this one.
        distributed: Share the sequences among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the batches and gives them back one by one, to show how far it is.

    Raises:
        ValueError: The scores do not match the classes or are not finite, or no step has a class.

    Memory: scores of 16 sequences.
    """
    share = own_share(len(dataset), distributed)
    batches = batches_of(dataset, share, _BATCH, num_workers=num_workers, watch=watch)
    found = Counts(len(dataset.classes))
    with eval_mode(model):
        for sequences, ids, *lengths in batches:
            x = sequences.to(device)
            with real_part(x, lengths), autocast_for(precision, x.device):
                scores = model(x)
            ids = ids.to(device).long()
            check_step_scores(scores, len(dataset.classes), ids.shape)
            total = F.cross_entropy(scores.double(), ids, ignore_index=IGNORED, reduction="sum")
            found.losses.append((float(total), int((ids != IGNORED).sum())))
            found.add(scores.argmax(1), ids)
    loss, confusion = found.over_ranks(f"step of the {len(dataset)} sequences", distributed)
    return StepFigures(loss=loss, classes=dataset.classes, num_samples=len(dataset), confusion=confusion)


def check_step_scores(scores: Tensor, num_classes: int, shape: Sequence[int]) -> None:
    """Check that a network gave a finite score for each class of each step.

    Args:
        scores: What it returned.
        num_classes: K.
        shape: (B, N).

    Raises:
        ValueError: It did not.
    """
    wanted = (shape[0], num_classes, shape[1])
    if tuple(scores.shape) != wanted:
        raise ValueError(
            f"the model's scores must be {wanted}, one a class of this data for each step; got "
            f"{tuple(scores.shape)}: load a model that was trained on these classes"
        )
    check_finite(scores)
