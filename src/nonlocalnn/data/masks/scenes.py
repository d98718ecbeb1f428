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

import torch
from torch import Generator, Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS
from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.masks.masked import MaskedImages

NUM_SCENES = {"train": 800, "validation": 100, "test": 200}
SIDES = (96, 128)

_CLASSES = ("background", "cue", "other")
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
        check_choice("split", split, SPLITS)
        super().__init__(classes=_CLASSES, sample_shape=(3, *SIDES))
        self._split = split
        self._augment = augment
        digits = load_digits(split, image_size=8)
        self._digits = [digits.read(index) for index in range(len(digits))]

    def __len__(self) -> int:
        return NUM_SCENES[self._split]

    def sample_id(self, index: int) -> str:
        """Return such as ``"segment-cue/train/17"``."""
        return f"segment-cue/{self._split}/{index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """See :meth:`MaskedImages.read`: (3, 96, 128) and (96, 128)."""
        # Hashed, so that neighbouring scenes and equal numbers of two splits have nothing in common.
        name = hashlib.blake2b(self.sample_id(index).encode(), digest_size=8).digest()
        seed = int.from_bytes(name, "big") >> 1
        if self._augment:
            seed = int(torch.randint(2**62, ()))
        return self._draw(Generator().manual_seed(seed))

    def _draw(self, generator: Generator) -> tuple[Tensor, Tensor]:
        height, width = SIDES
        noise = torch.rand(1, height, width, generator=generator) * _NOISE_LIMIT
        image, mask = noise.repeat(3, 1, 1), torch.zeros(height, width, dtype=torch.uint8)
        cue, other = torch.randperm(len(_RGB), generator=generator)[:2].tolist()
        top = _between(2, height - _CUE_SIDE - 2, generator)
        left = _between(2, 14, generator)
        image[:, top : top + _CUE_SIDE, left : left + _CUE_SIDE] = _RGB[cue][:, None, None]
        free = torch.ones(height, width, dtype=torch.bool)
        free[:, :_CUE_COLUMNS] = False
        wanted = _between(_FEWEST, _MOST + 1, generator)
        for _ in range(_TRIES):
            if not wanted:
                break
            side = _between(*_DIGIT_SIDES, generator)
            top, left = _between(0, height - side, generator), _between(_CUE_COLUMNS, width - side, generator)
            place = (slice(top, top + side), slice(left, left + side))
            digit = self._digits[_between(0, len(self._digits), generator)]
            has_cue = bool(torch.rand((), generator=generator) < 0.5)
            if not bool(free[place].all()):
                continue
            wanted -= 1
            free[place] = False
            ink = resize_image(digit, (side, side))
            colour = _RGB[cue if has_cue else other][:, None, None]
            image[:, *place] = image[:, *place] * (1 - ink) + colour * ink
            mask[place][ink[0] > _INK] = _CLASSES.index("cue" if has_cue else "other")
        return image, mask


def _between(low: int, high: int, generator: Generator) -> int:
    """Return a whole number from ``low`` to below ``high``."""
    return int(torch.randint(low, high, (), generator=generator))
