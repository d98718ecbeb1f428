"""Modules under the names that they had before 0.1.0.

Pickles of whole models name the module of what they hold, and programs of that time import these.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

_MOVED = {
    "layers": "functional.layers",
    "cost": "models.cost",
    "insertion": "surgery.insertion",
    "insertion_sites": "surgery.insertion_sites",
    "insertion_report": "surgery.insertion_report",
    "fusion": "surgery.fusion",
    "finetune": "surgery.finetune",
    # A module of a package that moved stands before the package.
    "conversion.carrying": "surgery.conversion.building",
    "conversion.sources": "surgery.conversion.layouts",
    "conversion": "surgery.conversion",
    "functional.sharded": "functional.split",
    "evaluate": "tasks.evaluation",
    "video_evaluation": "tasks.evaluation",
    "video_figures": "tasks.figures",
    "classifier": "inference.classifier",
    "model_facts": "inference.model_facts",
    "predict": "tasks.answers",
    "video_prediction": "tasks.answers",
    "explorer.shown_input": "tasks.inputs",
    "bulk": "inference.bulk",
    "data.video_pyav": "data.video.pyav",
    "data.video_torchcodec": "data.video.torchcodec",
    "data.video_source": "data.video.source",
    "data.video_files": "data.video.files",
    "data.video_lists": "data.video.lists",
    "data.list_rows": "data.video.list_rows",
    "data.video_named": "data.video.named",
    "data.video_benchmarks": "data.video.public_lists",
    "data.video.benchmarks": "data.video.public_lists",
    "data.video_sampling": "data.video.sampling",
    "data.video_sets": "data.video.dataset",
    "data.clips": "data.video.clips",
    "data.containers": "data.video.containers",
    "data.orientation": "data.video.containers",
    "data.frame_names": "data.video.frame_names",
    "data.video_writing": "data.video.writing",
    "data.shard_index": "data.archives.index",
    "data.shard_writing": "data.archives.writing",
    "data.shards": "data.archives.images",
    "checkpoints.alexhex7": "checkpoints.sources.alexhex7",
    "checkpoints.caffe2": "checkpoints.sources.caffe2",
    "checkpoints.slowfast": "checkpoints.sources.slowfast",
    "checkpoints.mmaction2": "checkpoints.sources.mmaction2",
    "checkpoints.source": "checkpoints.sources.source",
    "checkpoints.key_names": "checkpoints.sources.key_names",
    "checkpoints.norms": "checkpoints.sources.norms",
    "train.recipe": "tasks.recipe",
    "train.task": "tasks.classification",
    "train.video_task": "tasks.classification",
    "train.checkpoint": "train.state.checkpoint",
    "train.sharded_state": "train.state.resuming",
    "train.keeping": "train.state.saving",
    "train.starting": "train.initial_weights",
    "train.resuming": "train.state.resuming",
    "train.distributed": "train.parallel.distributed",
}


# What those modules held under another name, or what does its work now.
_RENAMED = {
    **dict.fromkeys(("predict", "predict_videos", "read_or_reason"), "tasks.answers.answer_files"),
    "answer": "tasks.answers.most_probable",
    "image_probabilities": "tasks.probabilities.class_probabilities",
    **dict.fromkeys(("evaluate_videos", "top_figures", "multi_label_figures"), "tasks.evaluation.evaluate"),
    **dict.fromkeys(("TopEvaluation", "VideoEvaluation", "by_class"), "tasks.figures.Evaluation"),
    "normalize_image": "data.normalization.normalize_image",
    "write_shards": "data.write_archives",
    "load_shards": "data.archives.images.load_archives",
    "Shards": "data.archives.images.load_archives",
    "Task": "train.Task",
    **dict.fromkeys(("VideoTask", "task_for"), "train.ClassificationTask"),
    **dict.fromkeys(("has_state", "has_sharded_state"), "train.state.resuming.state_names"),
    **dict.fromkeys(("read_state", "read_sharded_state"), "train.state.resuming.read_state"),
    **dict.fromkeys(("write_state", "ShardedWriter"), "train.state.saving.StateWriter"),
    "remove_damaged": "train.state.resuming.remove_newer",
    **dict.fromkeys(("read_input", "ask"), "inference.Classifier"),
}


class _Finder:
    """Finds a module under its old name."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        for old, new in _MOVED.items() if package == __package__ else ():
            if rest == old or rest.startswith(f"{old}."):
                return ModuleSpec(name, _Loader(f"{package}.{new}{rest.removeprefix(old)}"))
        return None


class _Loader(Loader):
    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module has run; importing it once more must not make it forget where it lies.
        module.__spec__ = self._spec
        vars(module)["__getattr__"] = _name_successor


def _name_successor(name: str) -> NoReturn:
    """Say what has taken the place of a name that a module of before held, and holds no more.

    Raises:
        ImportError: The name had a place; Python would say no more than that it cannot be imported.
        AttributeError: It had none.
    """
    if name in _RENAMED:
        raise ImportError(f"{name!r} has gone: use nonlocalnn.{_RENAMED[name]} in its place")
    raise AttributeError(f"there is no attribute {name!r}")


def find_moved_modules() -> None:
    """Let old names of modules be imported, which gives the modules of today."""
    if not any(each is _Finder for each in sys.meta_path):
        # Before the others, which would load what lies in a package that moved a second time.
        sys.meta_path.insert(0, _Finder)
