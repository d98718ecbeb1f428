"""Average precision by COCO's rules, as pycocotools counts it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nonlocalnn._errors import needs
from nonlocalnn.tasks.figures import by_class, class_table, in_text

# What COCO's summary has, in its order; and what kinds of results are called here.
_SUMMARY = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
_SUMMARY_OF_POINTS = (
    *("ap", "ap50", "ap75", "ap_medium", "ap_large"),
    *("ar", "ar50", "ar75", "ar_medium", "ar_large"),
)
_KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
# How far a point of COCO's persons may lie off, as a part of the object's size; people were measured. Of
# points that nobody measured it is the same for all, about the middle of these.
_COCO_SIGMAS = {
    "nose": 0.026,
    **dict.fromkeys(("left_eye", "right_eye"), 0.025),
    **dict.fromkeys(("left_ear", "right_ear"), 0.035),
    **dict.fromkeys(("left_shoulder", "right_shoulder"), 0.079),
    **dict.fromkeys(("left_elbow", "right_elbow"), 0.072),
    **dict.fromkeys(("left_wrist", "right_wrist"), 0.062),
    **dict.fromkeys(("left_hip", "right_hip"), 0.107),
    **dict.fromkeys(("left_knee", "right_knee"), 0.087),
    **dict.fromkeys(("left_ankle", "right_ankle"), 0.089),
}
_SIGMA = 0.05


@dataclass(frozen=True)
class Scores:
    """What one kind of results scores.

    Args:
        summary: COCO's twelve figures by their names, ten of points, 0 to 1; NaN where nothing of that size
            is marked.
        ap: Average precision of each class; NaN for one that is not marked.
    """

    summary: Mapping[str, float]
    ap: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class ObjectFigures:
    """What was found where objects are marked.

    There is no loss: a detector has one of what it is told, and none of what it answers.

    Args:
        classes: The K class names.
        num_samples: Images that the figures are of.
        num_objects: Of each class, how many objects are marked; crowds are not counted.
        scores: Of each kind of results, "bbox" and perhaps "segm" or "keypoints", what they score.
        correct: Of each point by its name, the share that is correct; empty where no points were looked for.

    Example:
        >>> scores = {"bbox": Scores({"ap": 0.5}, [0.5, float("nan")])}
        >>> found = ObjectFigures(classes=("a", "b"), num_samples=3, num_objects=(4, 0), scores=scores)
        >>> found.describe("some/test")
        'box AP 0.5000 on 3 images of some/test'
    """

    classes: tuple[str, ...]
    num_samples: int
    num_objects: tuple[int, ...]
    scores: Mapping[str, Scores]
    correct: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_correct(self) -> float:
        """Mean of the shares of correct points over the points that are marked anywhere; NaN without."""
        known = [share for share in self.correct.values() if share == share]
        return sum(known) / len(known) if known else float("nan")

    def describe(self, source: str) -> str:
        """Return a line that names the figures and the images that they cover."""
        aps = ", ".join(f"{_KINDS[kind]} AP {each.summary['ap']:.4f}" for kind, each in self.scores.items())
        if self.correct:
            aps += f", correct keypoints {self.mean_correct:.4f}"
        return f"{aps} on {self.num_samples:,} images of {source}"

    def per_class_table(self) -> str:
        """Return a plain-text table: class, how many are marked, and the average precision of each kind."""
        columns: dict[str, Iterable[str]] = {"objects": [f"{number:,}" for number in self.num_objects]}
        columns |= {f"{_KINDS[kind]} AP": in_text(each.ap) for kind, each in self.scores.items()}
        return class_table(self.classes, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        values: dict[str, Any] = {}
        for kind, each in self.scores.items():
            name = _KINDS[kind]
            for figure, value in each.summary.items():
                values[f"{name}_{figure}"] = None if value != value else value
            values[f"{name}_ap_by_class"] = by_class(self.classes, each.ap)
        if self.correct:
            values["keypoint_pck"] = self.mean_correct
            values["keypoint_pck_by_point"] = by_class(list(self.correct), list(self.correct.values()))
        return {
            **values,
            "num_samples": self.num_samples,
            "num_objects": dict(zip(self.classes, self.num_objects, strict=True)),
        }


def scored(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> Scores:
    """Return what results score: by faster-coco-eval where it is installed, else by pycocotools.

    Both give the same numbers; the first is several times faster.

    Args:
        truth: What is marked, as COCO's JSON.
        results: What was found, as COCO's results.
        kind: "bbox", "segm" or "keypoints". Points are scored by their similarity (OKS): of the 17 points of
            COCO's persons with COCO's constants, of others with 0.05 for each.

    Raises:
        ImportError: Neither is installed.
    """
    coco_class, eval_class = _tools()
    # They print what they do.
    with contextlib.redirect_stdout(io.StringIO()):
        marked = _indexed(coco_class, truth)
        if results:
            # Copies: they write into what they are given.
            found = marked.loadRes([dict(each) for each in results])
        else:
            # Neither takes an empty list.
            found = _indexed(coco_class, {**truth, "annotations": []})
        evaluation = eval_class(marked, found, kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = _sigmas(truth["categories"][0]["keypoints"])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = _SUMMARY_OF_POINTS if kind == "keypoints" else _SUMMARY
    summary = dict(zip(names, map(_defined, evaluation.stats), strict=False))
    # Thresholds, recalls, classes, sizes and how many results an image: of all sizes, with the most results.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    ap = []
    for place in range(precision.shape[2]):
        known = precision[:, :, place]
        ap.append(float(known.mean()) if (known > -1).all() else float("nan"))
    return Scores(summary, ap)


def _sigmas(names: Sequence[str]) -> Any:
    """Return the constant of each point: COCO's of its 17, in their order, else the same for all."""
    import numpy

    is_cocos = list(names) == list(_COCO_SIGMAS)
    return numpy.array(list(_COCO_SIGMAS.values()) if is_cocos else [_SIGMA] * len(names))


def _tools() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        with needs("pycocotools", "detection", "average precision"):
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        return COCO, COCOeval
    return COCO, COCOeval_faster


def _indexed(coco_class: Any, content: Mapping[str, Any]) -> Any:
    made = coco_class()
    made.dataset = {name: _copied(value) for name, value in content.items()}
    made.createIndex()
    return made


def _copied(value: Any) -> Any:
    return [dict(each) for each in value] if isinstance(value, list) else value


def _defined(value: Any) -> float:
    """Return a figure; COCO's -1 stands for none."""
    return float("nan") if value < 0 else float(value)
