"""Generated scenes in which a pixel's class depends on a square far away.

Nothing here was photographed. Each scene is drawn by this module, and only the digits in it are real:
scikit-learn's. Train, validation and test draw theirs from that split of ``digits``. On grey noise lie
squares near the left side and two to four digits elsewhere. A digit alone does not tell its class: a network
has to look from each digit to a square, up to 120 pixels away.

``segment-cue``     One square, the cue, of one of four colours. Each digit has its colour or that of one
                    other, and is of the class ``cue`` or ``other``. All digits need the same square.
``segment-legend``  Eight squares of as many hues, drawn anew for each scene, a legend: some have a dark
                    middle. Each digit has the hue of one square, and is ``marked`` where that one has a
                    dark middle, else ``plain``. Digits of different hues need different squares.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Callable, Sequence
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

# What a digit may be.
DIGIT_CLASSES = {"segment-cue": ("cue", "other"), "segment-legend": ("marked", "plain")}
_RGB = torch.tensor([[1.0, 0.15, 0.15], [0.15, 1.0, 0.15], [0.25, 0.35, 1.0], [1.0, 1.0, 0.15]])
# Grey noise stays below this, so that no noise is as bright as a colour.
_NOISE_LIMIT = 0.25
_CUE_SIDE = 9
# Squares of a legend, two in a row; their side, and where the dark middle of one begins.
_ENTRIES, _ENTRY_SIDE, _RIM = 8, 13, 4
# Of the distance between two hues of a legend that were evenly spread, the part by which one is moved.
_HUE_MOVED = 0.4
_SATURATION = 0.85
# Columns that are the squares' alone.
_SQUARE_COLUMNS = 34
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
        label: Which of the classes of digits it is of, 0 or 1.
    """

    top: int
    left: int
    ink: Tensor
    label: int

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
        name: ``"segment-cue"`` or ``"segment-legend"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        ValueError: ``name`` or ``split`` is unknown.
        ImportError: scikit-learn is missing.
    """

    def __init__(self, name: str, split: str) -> None:
        check_choice("name", name, tuple(DIGIT_CLASSES))
        check_choice("split", split, SPLITS)
        self._draw_squares = _draw_cue if name == "segment-cue" else _draw_legend
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
        choose = self._draw_squares(image, generator)
        free = torch.ones(height, width, dtype=torch.bool)
        free[:, :_SQUARE_COLUMNS] = False
        wanted = _between(_FEWEST, _MOST + 1, generator)
        digits: list[Digit] = []
        for _ in range(_TRIES):
            if len(digits) == wanted:
                break
            side = _between(*_DIGIT_SIDES, generator)
            top = _between(0, height - side, generator)
            left = _between(_SQUARE_COLUMNS, width - side, generator)
            digit = self._digits[_between(0, len(self._digits), generator)]
            colour, label = choose()
            place = (slice(top, top + side), slice(left, left + side))
            if not bool(free[place].all()):
                continue
            free[place] = False
            ink = resize_image(digit, (side, side))
            image[:, *place] = image[:, *place] * (1 - ink) + colour[:, None, None] * ink
            digits.append(Digit(top, left, ink[0] > _INK, label))
        return Scene(image, digits)


# What draws the colour of the next digit, (3,), and its class.
_Choose = Callable[[], tuple[Tensor, int]]


def _draw_cue(image: Tensor, generator: Generator) -> _Choose:
    """Draw the square of ``segment-cue`` into an image (3, H, W)."""
    cue, other = torch.randperm(len(_RGB), generator=generator)[:2].tolist()
    top = _between(2, image.shape[1] - _CUE_SIDE - 2, generator)
    left = _between(2, 14, generator)
    image[:, top : top + _CUE_SIDE, left : left + _CUE_SIDE] = _RGB[cue][:, None, None]

    def choose() -> tuple[Tensor, int]:
        has_cue = bool(torch.rand((), generator=generator) < 0.5)
        return (_RGB[cue], 0) if has_cue else (_RGB[other], 1)

    return choose


def _draw_legend(image: Tensor, generator: Generator) -> _Choose:
    """Draw the squares of ``segment-legend``, row by row."""
    moved = (torch.rand(_ENTRIES, generator=generator) - 0.5) * _HUE_MOVED
    hues = (torch.rand((), generator=generator) + (torch.arange(_ENTRIES) + moved) / _ENTRIES) % 1
    order = torch.randperm(_ENTRIES, generator=generator).tolist()
    colours = [torch.tensor(colorsys.hsv_to_rgb(float(hues[each]), _SATURATION, 1.0)) for each in order]
    is_marked = (torch.rand(_ENTRIES, generator=generator) < 0.5).tolist()
    room, width = image.shape[1] // (_ENTRIES // 2), _SQUARE_COLUMNS // 2
    for entry, colour in enumerate(colours):
        row, column = divmod(entry, 2)
        top = row * room + _between(1, room - _ENTRY_SIDE - 1, generator)
        left = column * width + _between(1, width - _ENTRY_SIDE, generator)
        square = image[:, top : top + _ENTRY_SIDE, left : left + _ENTRY_SIDE]
        square[:] = colour[:, None, None]
        if is_marked[entry]:
            square[:, _RIM:-_RIM, _RIM:-_RIM] = 0

    def choose() -> tuple[Tensor, int]:
        entry = _between(0, _ENTRIES, generator)
        return colours[entry], 0 if is_marked[entry] else 1

    return choose


class MaskedScenes(MaskedImages):
    """Scenes of digits and squares; the module says more.

    Args:
        name: ``"segment-cue"`` or ``"segment-legend"``.
        split: ``"train"``, ``"validation"`` or ``"test"``: 800, 100 and 200 scenes.
        augment: Draw another scene each time one is read, by torch's global random numbers.

    Raises:
        ValueError: ``name`` or ``split`` is unknown.
        ImportError: scikit-learn is missing.
    """

    def __init__(self, name: str, split: str, *, augment: bool = False) -> None:
        self._scenes = Scenes(name, split)
        super().__init__(classes=("background", *DIGIT_CLASSES[name]), sample_shape=(3, *SIDES))
        self._name, self._split = name, split
        self._augment = augment

    def __len__(self) -> int:
        return NUM_SCENES[self._split]

    def sample_id(self, index: int) -> str:
        """Return such as ``"segment-cue/train/17"``."""
        return f"{self._name}/{self._split}/{index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """See :meth:`MaskedImages.read`: (3, 96, 128) and (96, 128)."""
        scene = self._scenes.another() if self._augment else self._scenes.of_name(self.sample_id(index))
        mask = torch.zeros(SIDES, dtype=torch.uint8)
        for digit in scene.digits:
            mask[digit.place][digit.ink] = 1 + digit.label
        return scene.image, mask


def _between(low: int, high: int, generator: Generator) -> int:
    """Return a whole number from ``low`` to below ``high``."""
    return int(torch.randint(low, high, (), generator=generator))
