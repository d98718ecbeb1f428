"""Which kind of input a data set has, and a network takes."""

from collections.abc import Sequence

from nonlocalnn._errors import check_choice
from nonlocalnn.data import list_datasets
from nonlocalnn.tasks.images import Images
from nonlocalnn.tasks.inputs import InputKind
from nonlocalnn.tasks.sequences import Sequences
from nonlocalnn.tasks.videos import Videos

_KINDS: tuple[InputKind, ...] = (Sequences(), Images(), Videos())


def kind_of_samples(sample_shape: Sequence[int]) -> InputKind:
    """Return the kind of samples of a shape: (C, N), (C, H, W) or (C, T, H, W).

    Example:
        >>> kind_of_samples((3, 8, 32, 32)).name
        'video'
    """
    return _KINDS[len(sample_shape) - 2]


def kind_of_data(name: str) -> InputKind:
    """Return the kind of input of a data set by name.

    Raises:
        ValueError: There is no such data set.

    Example:
        >>> kind_of_data("digits").name, kind_of_data("kinetics").name
        ('image', 'video')
    """
    check_choice("data", name, list_datasets())
    return next(kind for kind in _KINDS if name in kind.datasets)
