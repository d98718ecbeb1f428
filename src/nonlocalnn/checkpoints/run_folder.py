"""Where the weights of a trained network lie: training, prediction and the command line ask."""

from __future__ import annotations

import os
from pathlib import Path

from nonlocalnn.checkpoints.other_files import folder_in_words


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Return the checkpoint at ``path``: of a run's folder its best weights, else ``path`` itself.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    weights = path / "best.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{path} holds no finished epoch: there is no {weights.name} in it; it is {folder_in_words(path)}"
        )
    return weights
