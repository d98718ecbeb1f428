"""Which kind of input a data set has, and a network takes."""

from collections.abc import Sequence

from nonlocalnn._errors import check_choice
from nonlocalnn.data import list_datasets
from nonlocalnn.tasks.images import Images
from nonlocalnn.tasks.inputs import Facts, InputKind
from nonlocalnn.tasks.sequences import Sequences
from nonlocalnn.tasks.videos import Videos
from nonlocalnn.tasks.volumes import Volumes

# By the number of sides, the first three; a volume has as many as a clip, and its data says that it is one.
_KINDS: tuple[InputKind, ...] = (Sequences(), Images(), Videos(), Volumes())


def kind_of_samples(sample_shape: Sequence[int]) -> InputKind:
    """Return the kind of samples of a shape: (C, N), (C, H, W) or (C, T, H, W), but never volumes.

    Example:
        >>> kind_of_samples((3, 8, 32, 32)).name
        'video'
    """
    return _KINDS[len(sample_shape) - 2]


def kind_of_facts(facts: Facts) -> InputKind:
    """Return the kind of input that a trained network takes.

    Example:
        >>> kind_of_facts(Facts(classes=("a", "b"), sample_shape=(3, 8, 32, 32))).name
        'video'
    """
    return _KINDS[3] if facts.volume is not None else kind_of_samples(facts.sample_shape)


def kind_named(name: str) -> InputKind:
    """Return a kind of input by its name.

    Example:
        >>> kind_named("volume").samples
        'volumes'
    """
    return next(kind for kind in _KINDS if kind.name == name)


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
