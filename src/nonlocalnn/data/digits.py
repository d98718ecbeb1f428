"""The handwritten digits that are installed with scikit-learn: real data without a download."""

import torch

from nonlocalnn._errors import check_choice, needs
from nonlocalnn._names import SPLITS
from nonlocalnn.data.labelled import InMemoryImages, LabelledImages, augmentation, check_image_size

# Of every ten samples of a class, in scikit-learn's order, which split takes which.
_SPLIT_OF_POSITION = ("train",) * 7 + ("validation",) + ("test",) * 2


def split_indices(targets: list[int], split: str) -> list[int]:
    """Return the indices of the samples of ``split``, ascending.

    Within each class the samples are counted in order: of every ten, the first seven go to train, the next
    one to validation and the last two to test. No random numbers, so no library version can change it.

    Example:
        >>> split_indices([0] * 10 + [1] * 10, "test")
        [8, 9, 18, 19]
    """
    seen: dict[int, int] = {}
    chosen = []
    for index, target in enumerate(targets):
        position = seen.get(target, 0)
        seen[target] = position + 1
        if _SPLIT_OF_POSITION[position % len(_SPLIT_OF_POSITION)] == split:
            chosen.append(index)
    return chosen


def load_digits(
    split: str, *, image_size: int | tuple[int, int] | None = None, augment: bool = False
) -> LabelledImages:
    """Load a split of the 1797 digits of scikit-learn: 1266 train, 178 validation, 353 test.

    The originals are 8 x 8 pixels with values 0 to 16; they are divided by 16 and resized bilinearly. Each
    digit's samples are divided 70/10/20 by their order (:func:`split_indices`). **The splits share their
    writers**: the file lists the digits writer by writer, 13 people in all, so nearly every writer is in all
    three splits. Accuracy here is accuracy on new drawings by known hands, not on new hands.

    Args: See :func:`nonlocalnn.data.load_dataset`.

    Returns:
        The split; ``sample_id`` is ``"digits/N"``, where N is the index in scikit-learn's array.

    Raises:
        ValueError: ``split`` is unknown, or ``image_size`` is below 1 pixel.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: scikit-learn is missing, or torchvision, which ``augment`` needs.

    Example:
        >>> train = load_digits("train")
        >>> len(train), train[0][0].shape, train.sample_id(0)
        (1266, torch.Size([1, 28, 28]), 'digits/0')
    """
    check_choice("split", split, SPLITS)
    size = check_image_size(28 if image_size is None else image_size)
    with needs("scikit-learn", "data", "the data set 'digits'"):
        from sklearn import datasets
    found = datasets.load_digits()
    targets = [int(target) for target in found.target]
    indices = split_indices(targets, split)
    images = torch.from_numpy(found.images).to(torch.uint8)[:, None]
    return InMemoryImages(
        images[indices],
        white=16,
        ids=[f"digits/{index}" for index in indices],
        classes=[str(digit) for digit in range(10)],
        image_size=size,
        targets=[targets[index] for index in indices],
        transform=augmentation("characters", size) if augment else None,
    )
