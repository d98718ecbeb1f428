"""Generated scenes of cards, each with points whose places depend on a colour elsewhere on the card.

Nothing here was photographed; only the digits are real, scikit-learn's. On dark noise lie two to four grey
cards. On each, in three of its four corners, are a small square, the cue, and two digits in two colours. Its
points are the middles of the cue, of the digit in the cue's colour (``same``), and of the one in the other
colour. Neither colour nor corner tells one digit from the other: a network has to look at the cue as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.masks.scenes import NUM_SCENES, SIDES, generator_of
from nonlocalnn.data.objects.annotated import AnnotatedImages, Marked, Sheet, Target
from nonlocalnn.data.objects.points import PointNames

POINTS = PointNames(("cue", "same", "other"), ((0, 1),))
_RGB = torch.tensor([[1.0, 0.15, 0.15], [0.15, 1.0, 0.15]])
_CARD, _DIGIT, _CUE = 44, 14, 7
# Where the corners of a card begin, and by how much what lies there is moved at random.
_CORNERS = ((2, 2), (2, 26), (26, 2), (26, 26))
_MOVED = 3
_FEWEST = 2
_TABLE, _PAPER, _NOISE = 0.05, 0.4, 0.1


@dataclass(frozen=True, eq=False)
class _Card:
    """A card: its uppermost row, its leftmost column, and its points as row and column on the image."""

    top: int
    left: int
    points: list[tuple[float, float]]


class CuePoints(AnnotatedImages):
    """Scenes of cards; the module says more.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``: 800, 100 and 200 scenes.
        augment: Draw another scene each time one is read, by torch's global random numbers.

    Raises:
        ValueError: ``split`` is unknown.
        ImportError: scikit-learn is missing.
    """

    def __init__(self, split: str, *, augment: bool = False) -> None:
        super().__init__(
            classes=("card",),
            sample_shape=(3, *SIDES),
            has_masks=False,
            points=POINTS,
            is_training=split == "train",
        )
        digits = load_digits(split, image_size=8)
        self._digits = [resize_image(digits.read(index), (_DIGIT, _DIGIT)) for index in range(len(digits))]
        self._split = split
        self._augment = augment

    def __len__(self) -> int:
        return NUM_SCENES[self._split]

    @property
    def groups(self) -> list[int]:
        """All are wide."""
        return [1] * len(self)

    def sample_id(self, index: int) -> str:
        """Return such as ``"keypoint-cue/train/17"``."""
        return f"keypoint-cue/{self._split}/{index}"

    def sheet(self, index: int) -> Sheet:
        """See :meth:`AnnotatedImages.sheet`."""
        return _sheet(self._scene(index)[1], index)

    def image(self, index: int) -> Tensor:
        """See :meth:`AnnotatedImages.image`: (3, 96, 128)."""
        return self._scene(index)[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        index = range(len(self))[index]
        # Drawn once: a new scene's image and points belong together.
        image, cards = self._draw(generator_of(None)) if self._augment else self._scene(index)
        return image, self._target(_sheet(cards, index))

    def _scene(self, index: int) -> tuple[Tensor, list[_Card]]:
        """Return the scene of an index, the same each time."""
        return self._draw(generator_of(self.sample_id(index)))

    def _draw(self, generator: Generator) -> tuple[Tensor, list[_Card]]:
        height, width = SIDES
        image = (_TABLE + _NOISE * torch.rand(1, height, width, generator=generator)).repeat(3, 1, 1)
        places = [(top, left) for top in (0, height // 2) for left in (0, width // 2)]
        number = _FEWEST + _below(len(places) - _FEWEST + 1, generator)
        cards = []
        for place in torch.randperm(len(places), generator=generator)[:number].tolist():
            top, left = (
                first + _below(side // 2 - _CARD + 1, generator)
                for first, side in zip(places[place], SIDES, strict=True)
            )
            cards.append(self._card(image, top, left, generator))
        return image, cards

    def _card(self, image: Tensor, top: int, left: int, generator: Generator) -> _Card:
        image[:, top : top + _CARD, left : left + _CARD] += _PAPER - _TABLE
        corners = torch.randperm(len(_CORNERS), generator=generator).tolist()
        colours = torch.randperm(len(_RGB), generator=generator).tolist()
        points = []
        for place, side in enumerate((_CUE, _DIGIT, _DIGIT)):
            row, column = (
                begin + start + _below(_MOVED, generator)
                for begin, start in zip((top, left), _CORNERS[corners[place]], strict=True)
            )
            # The cue and the first digit have one colour, the second has the other.
            colour = _RGB[colours[place == 2]].view(3, 1, 1)
            part = image[:, row : row + side, column : column + side]
            ink = torch.ones(1, side, side)
            if side == _DIGIT:
                ink = self._digits[_below(len(self._digits), generator)]
            part.copy_(part * (1 - ink) + colour * ink)
            points.append((row + (side - 1) / 2, column + (side - 1) / 2))
        return _Card(top, left, points)


def _sheet(cards: list[_Card], index: int) -> Sheet:
    objects = [
        Marked(
            1,
            (float(card.left), float(card.top), float(_CARD), float(_CARD)),
            points=[(column, row, 2) for row, column in card.points],
        )
        for card in cards
    ]
    return Sheet(index + 1, f"{index}.png", *SIDES, tuple(objects))


def _below(number: int, generator: Generator) -> int:
    """Return a whole number from 0 to below ``number``."""
    return int(torch.randint(number, (), generator=generator))
