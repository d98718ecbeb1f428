"""The points that are marked on each object: their names, lines between them, and what a mirror does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nonlocalnn.data.objects.numbers import as_number, as_whole

# Where a name says a side, as a word of its own: left_eye, eye-right, "Left Eye", leftEye.
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Where it may say one: lefteye, l_eye. It does if the other side is there.
_PERHAPS = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
# A point may lie so many pixels beyond its image: tools round, and some count from 1.
_SLACK = 1.0

# x and y in pixels, and COCO's visibility: 0 is not marked, 1 is marked and hidden, 2 is marked and seen.
Point = tuple[float, float, int]


@dataclass(frozen=True)
class PointNames:
    """What the points of an object are called, and which of them are joined.

    Args:
        names: Of the K points, in their order.
        skeleton: Pairs of points between which a line is drawn, counted from 0.

    Raises:
        ValueError: There is no name, two are alike, or a pair names a point that there is not.

    Example:
        >>> PointNames(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2))).swapped()
        [0, 2, 1]
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"keypoints must be a list of names; got {self.names!r:.80}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"keypoints must have different names; got {', '.join(self.names)}"[:200])
        for pair in self.skeleton:
            is_pair = len(pair) == 2 and all(type(each) is int for each in pair)
            if not is_pair or not all(0 <= each < len(self.names) for each in pair):
                raise ValueError(
                    f"skeleton must be pairs of the {len(self.names)} keypoints; got {list(pair)!r:.40}, "
                    "counted from 0"
                )

    def swapped(self) -> list[int]:
        """Return for each point the one that takes its place in a mirror: left and right change places.

        Of a name with left or l that is the same with right or r, and the other way round; all others stay.

        Raises:
            ValueError: A name of one side has none of the other.
        """
        # Tools write names in small letters or not; the rest of a name is compared as it is.
        words = [_HUMP.sub("_", name).lower() for name in self.names]
        place = {name: number for number, name in enumerate(words)}
        found = []
        for number, (name, own) in enumerate(zip(self.names, words, strict=True)):
            other = _PERHAPS.sub(lambda side: _OTHER[side[0]], own)
            if other not in place:
                other = _SIDE.sub(lambda side: _OTHER[side[0]], own)
            if other not in place:
                raise ValueError(
                    f"keypoint {name!r} needs {other!r}, with which it changes places in a mirrored image: "
                    "name it, or leave mirroring out with augment=False"
                )
            found.append(place[other] if other != own else number)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"names": list(self.names), "skeleton": [list(pair) for pair in self.skeleton]}

    @classmethod
    def from_dict(cls, values: Any) -> PointNames:
        """Return what :meth:`to_dict` gave.

        Raises:
            ValueError: It is something else.
        """
        if not isinstance(values, dict) or set(values) != {"names", "skeleton"}:
            raise ValueError(f"keypoints must hold names and skeleton; got {values!r:.80}")
        names, skeleton = values["names"], values["skeleton"]
        if not isinstance(names, list) or not isinstance(skeleton, list):
            raise ValueError(f"names and skeleton of keypoints must be lists; got {values!r:.80}")
        return cls(tuple(names), tuple(tuple(pair) if isinstance(pair, list) else () for pair in skeleton))


def points_of_categories(categories: Sequence[dict[str, Any]], source: Any) -> PointNames:
    """Return the points that COCO's categories name; all must name the same, since one head finds them.

    Raises:
        ValueError: A category names none, or others than the first.
    """
    found = []
    for each in categories:
        names, skeleton = each.get("keypoints"), each.get("skeleton") or []
        if not isinstance(names, list) or not names:
            raise ValueError(
                f"{source}: category {each.get('name')!r:.40} must name its keypoints, as COCO's file of "
                "persons does"
            )
        # COCO counts these from 1.
        pairs = skeleton
        try:
            if isinstance(skeleton, list):
                pairs = [_from_zero(pair, len(names)) for pair in skeleton]
            found.append(PointNames.from_dict({"names": names, "skeleton": pairs}))
        except ValueError as error:
            raise ValueError(f"{source}: category {each.get('name')!r:.40}: {error}") from None
    for each, own in zip(categories, found, strict=True):
        if own.names != found[0].names:
            raise ValueError(
                f"{source}: all categories must have the same keypoints, which one head finds; "
                f"{each['name']!r} has others than {categories[0]['name']!r}"
            )
    return found[0]


def checked_points(value: Any, number: int, name: str, width: int, height: int) -> tuple[Point, ...]:
    """Return the points of an annotation; where it has none, as many that are not marked.

    Args:
        value: COCO's list of x, y, visibility, x, y, visibility and so on, or None.
        number: K.
        name: Of its image, for errors.
        width: Of the image, in pixels.
        height: Of the image.

    Raises:
        ValueError: They are no such points, or one lies outside the image.

    Example:
        >>> checked_points([3, 4, 2, 0, 0, 0], 2, "a.png", 10, 10)
        ((3.0, 4.0, 2), (0.0, 0.0, 0))
    """
    if not value:
        return ((0.0, 0.0, 0),) * number
    if not isinstance(value, list) or len(value) != 3 * number:
        raise ValueError(f"{name}: keypoints must be {number} times x, y, visibility; got {value!r:.60}")
    points = []
    for place in range(0, len(value), 3):
        point = value[place : place + 3]
        try:
            visible = as_whole(point[2])
            # Of a point that is not marked files hold anything.
            x, y = (as_number(each) if visible else 0.0 for each in point[:2])
        except ValueError:
            visible = -1
        if visible not in (0, 1, 2):
            raise ValueError(
                f"{name}: a keypoint must be x, y and a visibility of 0, 1 or 2; got {point!r:.60}"
            )
        if not visible:
            points.append((0.0, 0.0, 0))
            continue
        if not (-_SLACK <= x <= width + _SLACK and -_SLACK <= y <= height + _SLACK):
            raise ValueError(f"{name}: its keypoint {[x, y]} lies outside the image, {width} x {height}")
        points.append((float(x), float(y), visible))
    return tuple(points)


def _from_zero(pair: Any, number: int) -> list[int]:
    """Return a pair of points that are counted from 1, counted from 0.

    Raises:
        ValueError: It is none, or names a point that there is not.
    """
    is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair)
    if not is_pair or not all(1 <= each <= number for each in pair):
        raise ValueError(f"skeleton must be pairs of the {number} keypoints, from 1 on; got {pair!r:.40}")
    return [each - 1 for each in pair]
