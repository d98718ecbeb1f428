"""What every network from a file has for its user, whatever its task."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nonlocalnn._errors import counted
from nonlocalnn.inference.model_facts import in_words
from nonlocalnn.tasks.images import Images
from nonlocalnn.tasks.inputs import InputKind

A = TypeVar("A")


class Loaded(ABC):
    """What every network from a file has for its user.

    Attributes:
        model: In eval mode; what loads it leaves it on the CPU.
        recipe: The recipe that trained it; empty where it was not trained by one.
        assumed: Which of its facts its file does not say.
    """

    model: nn.Module
    recipe: dict[str, Any]
    assumed: tuple[str, ...]

    @property
    @abstractmethod
    def kind(self) -> InputKind:
        """What it takes: images, videos, sequences or volumes."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def assumptions(self) -> str:
        """What was assumed of it, in words; empty where its file says everything."""
        return in_words(vars(self), self.assumed)

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """Return the files of the kind that it takes, among ``inputs`` and in the folders among them.

        What is not there, and a folder that holds none, are among them as they are named: reading them says
        what is wrong, and the others can be read.
        """
        return self.kind.find(inputs)

    def folder(self, name: str, data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
        """Return where a data set's files are: where it is said, or where those of the training were.

        Raises:
            FileNotFoundError: Those of the training were at a relative path, which leads nowhere from here.
        """
        if data_dir is not None or name != self.recipe.get("data"):
            return data_dir
        found = self.recipe.get("data_dir")
        # Those of these two are fetched where they are missing.
        if found is None or name in ("mnist", "fashion-mnist"):
            return found
        if not (Path(found).is_absolute() or Path(found).exists()):
            raise FileNotFoundError(
                f"the training read its data from {found}, a relative path, and there is no "
                f"{Path(found).absolute()}: say where they are, --data-dir DIR"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Trained(Loaded):
    """A network of images that answers for places, and what it was trained on.

    Args:
        model: In eval mode; what loads it leaves it on the CPU.
        classes: Names of the classes.
        sample_shape: (3, H, W) of the samples of training; it takes images of any size.
        recipe: The recipe that trained it; empty where it was not trained by one.
        assumed: Which of these its file does not say.
    """

    model: nn.Module
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    @property
    def kind(self) -> InputKind:
        """What it takes: images."""
        return Images()

    def answers(
        self,
        inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        answer: Callable[[Path], A],
        failed: Callable[[Path, str], A],
    ) -> Iterator[A]:
        """Yield the answer to each file, and to those in folders, or what is made of why it has none."""
        for path in self.find([inputs] if isinstance(inputs, str | os.PathLike) else inputs):
            try:
                found = answer(path)
            except (OSError, ValueError) as error:
                found = failed(path, " ".join(str(error).split()))
            yield found

    def check_channels(self, name: str, channels: int) -> None:
        """Check that a data set has the channels that the model takes.

        Raises:
            ValueError: It has others.
        """
        if channels != self.sample_shape[0]:
            own = counted(self.sample_shape[0], "channel")
            raise ValueError(f"the model takes {own}, and {name!r} has {channels}")
