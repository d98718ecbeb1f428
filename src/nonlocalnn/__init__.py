"""Non-local neural networks in PyTorch: exact, in memory linear in the number of positions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nonlocalnn._moved import find_moved_modules

# What type checkers and documentation see; `_HOMES` says the same to the program.
if TYPE_CHECKING:
    from nonlocalnn import functional
    from nonlocalnn.affinity import capture_affinity, examine
    from nonlocalnn.blocks import NonLocal1d, NonLocal2d, NonLocal3d, NonLocalNd, nonlocal_blocks
    from nonlocalnn.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
    from nonlocalnn.functional import real_positions, split_positions
    from nonlocalnn.inference import load_classifier
    from nonlocalnn.models import create_model, inflate_, list_models
    from nonlocalnn.models.cost import cost
    from nonlocalnn.surgery.conversion import convert_nonlocal_
    from nonlocalnn.surgery.finetune import assert_trained, param_groups
    from nonlocalnn.surgery.fusion import fuse_
    from nonlocalnn.surgery.insertion import InsertionReport, insert_nonlocal_, remove_nonlocal_, sites

__version__ = "0.1.0"

find_moved_modules()

__all__ = [
    "CheckpointError",
    "InsertionReport",
    "NonLocal1d",
    "NonLocal2d",
    "NonLocal3d",
    "NonLocalNd",
    "assert_trained",
    "capture_affinity",
    "convert_nonlocal_",
    "cost",
    "create_model",
    "examine",
    "functional",
    "fuse_",
    "inflate_",
    "insert_nonlocal_",
    "list_models",
    "load_checkpoint",
    "load_classifier",
    "nonlocal_blocks",
    "param_groups",
    "real_positions",
    "remove_nonlocal_",
    "save_checkpoint",
    "sites",
    "split_positions",
]

# Where each name lies.
_HOMES = {
    name: home
    for home, names in {
        "affinity": ["capture_affinity", "examine"],
        "blocks": ["NonLocal1d", "NonLocal2d", "NonLocal3d", "NonLocalNd", "nonlocal_blocks"],
        "checkpoints": ["CheckpointError", "load_checkpoint", "save_checkpoint"],
        "functional": ["real_positions", "split_positions"],
        "inference": ["load_classifier"],
        "models": ["create_model", "inflate_", "list_models"],
        "models.cost": ["cost"],
        "surgery.conversion": ["convert_nonlocal_"],
        "surgery.finetune": ["assert_trained", "param_groups"],
        "surgery.fusion": ["fuse_"],
        "surgery.insertion": ["InsertionReport", "insert_nonlocal_", "remove_nonlocal_", "sites"],
    }.items()
    for name in names
}
# What comes with them, and may be asked for as nonlocalnn.models without an import of its own.
_ROOMS = (
    "affinity",
    "blocks",
    "checkpoints",
    "data",
    "functional",
    "inference",
    "models",
    "surgery",
    "tasks",
)


def __getattr__(name: str) -> Any:
    """Import what is public, all at once, when the first of it is asked for.

    The help of the command line lies in this package too, needs none of it, and would wait seconds for torch.
    """
    if name not in _HOMES and name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for each, home in _HOMES.items():
        globals()[each] = getattr(import_module(f"{__name__}.{home}"), each)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
