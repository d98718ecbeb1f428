"""Generated scenes with objects whose class depends on a colour far away.

They are those of :mod:`nonlocalnn.data.masks.scenes`: digits, of which each has the colour of a square near
the left side or another one. Here each digit is an object with a box and a mask, of the class ``cue`` or
``other``; the square is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnn.data.masks.scenes import DIGIT_CLASSES, NUM_SCENES, SIDES, Scene, Scenes
from nonlocalnn.data.objects.annotated import AnnotatedImages, Marked, Sheet, Target
from nonlocalnn.data.objects.runs import encoded


class CueObjects(AnnotatedImages):
    """Scenes of digits and a cue, each digit an object; the module says more.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``: 800, 100 and 200 scenes.
        augment: Draw another scene each time one is read, by torch's global random numbers.

    Raises:
        ValueError: ``split`` is unknown.
        ImportError: scikit-learn is missing; when an image is read, pycocotools.
    """

    def __init__(self, split: str, *, augment: bool = False) -> None:
        super().__init__(
            classes=DIGIT_CLASSES["segment-cue"],
            sample_shape=(3, *SIDES),
            has_masks=True,
            is_training=split == "train",
        )
        self._scenes = Scenes("segment-cue", split)
        self._split = split
        self._augment = augment

    def __len__(self) -> int:
        return NUM_SCENES[self._split]

    @property
    def groups(self) -> list[int]:
        """All are wide."""
        return [1] * len(self)

    def sample_id(self, index: int) -> str:
        """Return such as ``"detect-cue/train/17"``."""
        return f"detect-cue/{self._split}/{index}"

    def sheet(self, index: int) -> Sheet:
        """See :meth:`AnnotatedImages.sheet`."""
        return self._sheet_of(self._scenes.of_name(self.sample_id(index)), index)

    def image(self, index: int) -> Tensor:
        """See :meth:`AnnotatedImages.image`: (3, 96, 128)."""
        return self._scenes.of_name(self.sample_id(index)).image

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        index = range(len(self))[index]
        # Drawn once: a new scene's image and objects belong together.
        scene = self._scenes.another() if self._augment else self._scenes.of_name(self.sample_id(index))
        return scene.image, self._target(self._sheet_of(scene, index))

    def _sheet_of(self, scene: Scene, index: int) -> Sheet:
        height, width = SIDES
        objects = []
        for digit in scene.digits:
            mask = torch.zeros(SIDES, dtype=torch.uint8)
            mask[digit.place] = digit.ink.to(torch.uint8)
            rows, columns = (mask.amax(axis).nonzero().flatten().tolist() for axis in (1, 0))
            box = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
            label = 1 + digit.label
            objects.append(Marked(label, tuple(map(float, box)), encoded(mask), False, float(mask.sum())))  # type: ignore[arg-type]
        return Sheet(index + 1, f"{index}.png", height, width, tuple(objects))
