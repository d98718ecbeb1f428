"""Trained classifiers as folders in the form of the Hugging Face Hub, with a model card; there and back."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from nonlocalnn._errors import needs
from nonlocalnn._files import write_text
from nonlocalnn.checkpoints import read_metadata, save_checkpoint
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.inference.classifier import Classifier, load_classifier

# Functions and no mixin class: our files say what builds a network, and networks need not inherit from a
# library that few install.
_WEIGHTS, _CARD = "model.safetensors", "README.md"


_EXAMPLES = {"image": "image.png", "video": "clip.mp4", "volume": "scan.nii.gz"}


def save_pretrained(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write a trained network and its model card into a folder that the Hub takes as it is.

    The weights are one safetensors file, with what builds the network and what it expects in its header. The
    card, README.md, is made of these facts, and of the run's ``metrics.json`` where ``source`` is a run.

    Args:
        source: A run's folder (its best weights), or a checkpoint of :func:`nonlocalnn.save_checkpoint`.
        folder: Made if missing; files of these names in it are replaced.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file does not say what builds its network, or is damaged.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> place = Path(tempfile.mkdtemp())
        >>> facts = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32]}
        >>> model = create_model("nl2_c2d_tiny", num_classes=2)
        >>> save_checkpoint(model, place / "tiny.safetensors", metadata=facts)
        >>> folder = save_pretrained(place / "tiny.safetensors", place / "hub")
        >>> sorted(path.name for path in folder.iterdir()), from_pretrained(folder).classes
        (['README.md', 'model.safetensors'], ('a', 'b'))
    """
    source, folder = Path(source), Path(folder)
    weights = weights_file(source)
    classifier = load_classifier(weights)
    metrics = source / "metrics.json"
    found = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else None
    facts = {**classifier.facts(), **_public(read_metadata(weights))}
    save_checkpoint(classifier.model, folder / _WEIGHTS, metadata=facts)
    write_text(folder / _CARD, model_card(classifier, found))
    return folder


def _public(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without the folders of the machine that trained."""
    recipe = metadata.get("recipe")
    if recipe is None:
        return metadata
    places = ("data_dir", "output", "start_from")
    return {**metadata, "recipe": {name: value for name, value in recipe.items() if name not in places}}


def from_pretrained(name: str | os.PathLike[str], *, revision: str | None = None) -> Classifier:
    """Load a classifier from a folder of :func:`save_pretrained`, or from the Hub.

    Reading runs no code that a file may hold.

    Args:
        name: The folder, or "owner/name" of a repository on the Hub, which is downloaded once.
        revision: A branch, tag or commit of the repository.

    Returns:
        The classifier, on the CPU; its network is ``.model``.

    Raises:
        FileNotFoundError: The folder holds no such file.
        ValueError: A revision of a folder is asked for.
        CheckpointError: The file is damaged, or not of this library.
        ImportError: huggingface_hub is missing.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a folder and has no revision {revision!r}: leave it out")
        return load_classifier(Path(name) / _WEIGHTS)
    return load_classifier(_library().hf_hub_download(str(name), _WEIGHTS, revision=revision))


def push_to_hub(source: str | os.PathLike[str], repository: str, *, private: bool = False) -> str:
    """Send what :func:`save_pretrained` writes to a repository on the Hub, made if missing.

    Args:
        source: See :func:`save_pretrained`.
        repository: "owner/name". The token is that of ``hf auth login`` or of the variable HF_TOKEN.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: See :func:`save_pretrained`.
        CheckpointError: See :func:`save_pretrained`.
        ImportError: huggingface_hub is missing.
    """
    library = _library()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(source, folder)
        library.create_repo(repository, private=private, exist_ok=True)
        return str(library.upload_folder(repo_id=repository, folder_path=folder))


def model_card(classifier: Classifier, metrics: dict[str, Any] | None = None) -> str:
    """Return a model card: Markdown under a YAML header.

    Args:
        classifier: What is described.
        metrics: What training wrote as ``metrics.json``; None where there is none.
    """
    config = classifier.model.config
    assert isinstance(config, dict)
    kind = classifier.kind.name
    shown = ", ".join(classifier.classes[:20]) + (" and more" if len(classifier.classes) > 20 else "")
    lines = [
        "---",
        "library_name: nonlocalnn",
        f"pipeline_tag: {kind}-classification",
        "tags: [non-local]",
        "---",
        "",
        f"# {config['name']}",
        "",
        "A network with non-local blocks (Wang, Girshick, Gupta, He, CVPR 2018).",
        "",
        "```python",
        "from nonlocalnn.hub import from_pretrained",
        "",
        'classifier = from_pretrained("this folder, or owner/name")',
        f'print(classifier.predict("{_EXAMPLES.get(kind, "a file")}"))',
        "```",
        "",
        f"- Network: `{config['name']}`" + _details(config),
        f"- Samples: {' x '.join(map(str, classifier.sample_shape))}",
        f"- Classes ({len(classifier.classes)}): {shown}",
    ]
    if classifier.recipe:
        lines.append(f"- Trained on: {classifier.recipe['data']}")
    if metrics is not None:
        lines += ["", *_figures(metrics)]
    return "\n".join(lines) + "\n"


def _details(config: dict[str, Any]) -> str:
    """Return what else builds a network than its name: library, settings, blocks put in and taken out."""
    settings = ", ".join(f"{name}={value!r}" for name, value in config["overrides"].items())
    parts = [
        f" of {config['library']}" if "library" in config else "",
        f" with {settings}" if settings else "",
        f", a non-local block after {', '.join(config['inserted'])}" if "inserted" in config else "",
        f", without {', '.join(config['removed'])}" if "removed" in config else "",
    ]
    return "".join(parts)


def _figures(metrics: dict[str, Any]) -> list[str]:
    test = metrics["test"]
    views = f", {test['views']}" if "views" in test else ""
    # Runs before 0.1.0 wrote it under the other name.
    number = test.get("num_covered", test.get("num_samples"))
    score = "mean_average_precision" if "mean_average_precision" in test else "accuracy"
    return [
        f"Test {score.replace('_', ' ')}: {test[score]:.4f} on {number} samples{views}, "
        f"seed {metrics['seed']}, after {metrics['steps']} steps; chosen by validation at epoch "
        f"{metrics['best_epoch']}.",
    ]


def _library() -> Any:
    with needs("huggingface_hub", "hub", "the Hugging Face Hub"):
        import huggingface_hub
    return huggingface_hub
