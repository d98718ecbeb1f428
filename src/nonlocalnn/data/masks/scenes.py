"""Generated scenes in which a pixel's class depends on a colour far away.

Nothing here was photographed. Each scene is drawn by this module, and only the digits in it are real:
scikit-learn's. Train, validation and test draw theirs from that split of ``digits``.

On grey noise lie, near the left side, a square of one of four colours, the cue, and elsewhere two to four
digits, each in the cue's colour or in one other. The class of a digit's pixels is whether it has the cue's
colour. A digit alone does not tell: every colour is the cue's in some scenes. A network has to look from each
digit to the square, up to 120 pixels away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS
from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.masks.masked import MaskedImages

NUM_SCENES = {"train": 800, "validation": 100, "test": 200}
SIDES = (96, 128)

# Of a digit: whether it has the cue's colour.
DIGIT_CLASSES = ("cue", "other")
_CLASSES = ("background", *DIGIT_CLASSES)
_RGB = torch.tensor([[1.0, 0.15, 0.15], [0.15, 1.0, 0.15], [0.25, 0.35, 1.0], [1.0, 1.0, 0.15]])
# Grey noise stays below this, so that no noise is as bright as a colour.
_NOISE_LIMIT = 0.25
_CUE_SIDE = 9
# Columns that are the cue's alone.
_CUE_COLUMNS = 34
_DIGIT_SIDES = (16, 25)
_FEWEST, _MOST = 2, 4
# Ink above this is the digit's; what is fainter is its edge.
_INK = 0.3
_TRIES = 60


@dataclass(frozen=True, eq=False)
class Digit:
    """A digit of a scene.

    Args:
        top: Row of the uppermost pixel of its square.
        left: Column of the leftmost one.
        ink: Which pixels of its square are its own, bool (side, side).
        has_cue: Whether it has the cue's colour.
    """

    top: int
    left: int
    ink: Tensor
    has_cue: bool

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of its square."""
        side = len(self.ink)
        return slice(self.top, self.top + side), slice(self.left, self.left + side)


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene: its image, float32 (3, H, W), and its digits."""

    image: Tensor
    digits: Sequence[Digit]


def generator_of(name: str | None) -> Generator:
    """Return what draws the scene of a name, the same each time; of None, one by torch's global numbers."""
    if name is None:
        return Generator().manual_seed(int(torch.randint(2**62, ())))
    # Hashed, so that neighbouring scenes and equal numbers of two splits have nothing in common.
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class Scenes:
    """Draws scenes with the digits of a split.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        ValueError: ``split`` is unknown.
        ImportError: scikit-learn is missing.
    """

    def __init__(self, split: str) -> None:
        check_choice("split", split, SPLITS)
        digits = load_digits(split, image_size=8)
        self._digits = [digits.read(index) for index in range(len(digits))]

    def of_name(self, name: str) -> Scene:
        """Return the scene of a name, the same each time."""
        return self._draw(generator_of(name))

    def another(self) -> Scene:
        """Return a new scene, by torch's global random numbers."""
        return self._draw(generator_of(None))

    def _draw(self, generator: Generator) -> Scene:
        height, width = SIDES
        noise = torch.rand(1, height, width, generator=generator) * _NOISE_LIMIT
        image = noise.repeat(3, 1, 1)
        cue, other = torch.randperm(len(_RGB), generator=generator)[:2].tolist()
        top = _between(2, height - _CUE_SIDE - 2, generator)
        left = _between(2, 14, generator)
        image[:, top : top + _CUE_SIDE, left : left + _CUE_SIDE] = _RGB[cue][:, None, None]
        free = torch.ones(height, width, dtype=torch.bool)
        free[:, :_CUE_COLUMNS] = False
        wanted = _between(_FEWEST, _MOST + 1, generator)
        digits: list[Digit] = []
        for _ in range(_TRIES):
            if len(digits) == wanted:
                break
            side = _between(*_DIGIT_SIDES, generator)
            top, left = _between(0, height - side, generator), _between(_CUE_COLUMNS, width - side, generator)
            digit = self._digits[_between(0, len(self._digits), generator)]
            has_cue = bool(torch.rand((), generator=generator) < 0.5)
            place = (slice(top, top + side), slice(left, left + side))
            if not bool(free[place].all()):
                continue
            free[place] = False
            ink = resize_image(digit, (side, side))
            colour = _RGB[cue if has_cue else other][:, None, None]
            image[:, *place] = image[:, *place] * (1 - ink) + colour * ink
            digits.append(Digit(top, left, ink[0] > _INK, has_cue))
        return Scene(image, digits)


class CueScenes(MaskedImages):
    """Scenes of digits and a cue; the module says more.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``: 800, 100 and 200 scenes.
        augment: Draw another scene each time one is read, by torch's global random numbers.

    Raises:
        ValueError: ``split`` is unknown.
        ImportError: scikit-learn is missing.
    """

    def __init__(self, split: str, *, augment: bool = False) -> None:
        super().__init__(classes=_CLASSES, sample_shape=(3, *SIDES))
        self._scenes = Scenes(split)
        self._split = split
        self._augment = augment

    def __len__(self) -> int:
        return NUM_SCENES[self._split]

    def sample_id(self, index: int) -> str:
        """Return such as ``"segment-cue/train/17"``."""
        return f"segment-cue/{self._split}/{index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """See :meth:`MaskedImages.read`: (3, 96, 128) and (96, 128)."""
        scene = self._scenes.another() if self._augment else self._scenes.of_name(self.sample_id(index))
        mask = torch.zeros(SIDES, dtype=torch.uint8)
        for digit in scene.digits:
            mask[digit.place][digit.ink] = _CLASSES.index(DIGIT_CLASSES[0 if digit.has_cue else 1])
        return scene.image, mask


def _between(low: int, high: int, generator: Generator) -> int:
    """Return a whole number from ``low`` to below ``high``."""
    return int(torch.randint(low, high, (), generator=generator))
