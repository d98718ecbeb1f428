"""Networks that torchvision and timm make by name: made again, and recognised.

Only names of a library's own list are made, with settings that are plain numbers: what a file asks for can
choose among the library's networks and do nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from nonlocalnn._errors import check_choice, check_whole, one_line
from nonlocalnn.models.presets import create_model

Layer = nn.Linear | nn.Conv2d | nn.Conv3d
LIBRARIES = ("nonlocalnn", "torchvision", "timm")
# Settings that change what is computed and are known from a model, beside its number of classes.
_SETTINGS = {"torchvision": ("aux_logits", "aux_loss", "transform_input"), "timm": ("in_chans",)}


def build_named(library: str, name: str, num_classes: int, settings: dict[str, Any]) -> nn.Module:
    """Return a network of a library by its name, with fresh weights.

    Args:
        library: One of ``LIBRARIES``.
        name: What the library calls it; one of :func:`listed_names`.
        num_classes: Width of its output.
        settings: Of this library, what :func:`nonlocalnn.create_model` takes; of others, whole numbers.

    Raises:
        ValueError: The library lists no such name, or a setting is refused.
        TypeError: A setting is unknown.
        ImportError: The library is not installed.

    Example:
        >>> type(build_named("torchvision", "resnet18", 10, {})).__name__
        'ResNet'
    """
    check_choice("library", library, LIBRARIES)
    if library == "nonlocalnn":
        return create_model(name, num_classes=num_classes, **settings)
    check_whole("num_classes", num_classes, most=2**20)
    for setting, value in settings.items():
        check_choice(f"a setting of {library}", setting, _SETTINGS[library])
        if setting == "in_chans":
            check_whole(setting, value, most=2**10)
        else:
            check_choice(setting, value, (True, False))
    module = import_library(library, name)
    check_choice(f"a network of {library}", name, listed_names(library))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how weights are drawn, which are replaced
        if library == "torchvision":
            # Without the word the body of a segmentation network would be fetched.
            body = {"weights_backbone": None} if library_task(library, name) == "segmentation" else {}
            model = module.models.get_model(name, weights=None, num_classes=num_classes, **body, **settings)
        else:
            model = module.create_model(name, pretrained=False, num_classes=num_classes, **settings)
    assert isinstance(model, nn.Module)
    return model


def import_library(library: str, name: str) -> Any:
    """Return torchvision or timm.

    Raises:
        ImportError: It is not installed.
    """
    try:
        if library == "torchvision":
            import torchvision

            return torchvision
        import timm

        return timm
    except ImportError as error:
        raise ImportError(
            f"the network {name!r} is one of {library}, which cannot be imported ({one_line(error)}): "
            f"run pip install {library}"
        ) from None


def listed_names(library: str) -> Sequence[str]:
    """Return the names that an installed library lists: of classification and of segmentation."""
    if library == "torchvision":
        from torchvision import models

        modules = (models, models.video, models.segmentation)
        return [name for module in modules for name in models.list_models(module=module)]
    import timm

    # Once as they are, and once with the name of the weights, which tells mean and size.
    return [*timm.list_models(), *timm.list_models(pretrained=True)]


def library_task(library: str, name: str) -> str:
    """Return what a library's network is for: "classification" or "segmentation".

    Example:
        >>> library_task("torchvision", "fcn_resnet50"), library_task("torchvision", "resnet18")
        ('segmentation', 'classification')
    """
    if library != "torchvision":
        return "classification"
    from torchvision import models

    return "segmentation" if name in models.list_models(module=models.segmentation) else "classification"


def candidates(model: nn.Module, num_inserted: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the library, the name and the settings by which a network may have been made, most likely first.

    timm notes the name in its networks. torchvision notes nothing: its candidates are those networks of the
    same file that have as many parameters.

    Args:
        model: Without the blocks that were inserted it may be one of a library's.
        num_inserted: Parameters of these blocks.
    """
    home = type(model).__module__
    if home.startswith("torchvision.models."):
        from torchvision import models

        own = {name: vars(model)[name] for name in _SETTINGS["torchvision"] if name in vars(model)}
        if getattr(model, "aux_classifier", None) is not None:
            own["aux_loss"] = True
        head = last_layer(model)
        body = _num_parameters(model) - num_inserted
        for name in listed_names("torchvision"):
            if models.get_model_builder(name).__module__ != home or head is None:
                continue
            if library_task("torchvision", name) == "segmentation":
                yield "torchvision", name, own
                continue
            facts = models.get_model_weights(name).DEFAULT.meta
            more = (len(facts["categories"]) - width_of(head)) * _num_parameters(head) // width_of(head)
            # What is left out of a network with further heads is not counted here.
            if "aux_logits" in own or facts["num_params"] == body + more:
                yield "torchvision", name, own
    elif home.startswith("timm.models."):
        noted = getattr(model, "pretrained_cfg", None)
        if not isinstance(noted, dict) or not isinstance(noted.get("architecture"), str):
            return
        names, listed = [noted["architecture"]], listed_names("timm")
        if noted.get("tag"):
            names.insert(0, f"{names[0]}.{noted['tag']}")
        first = next((value for value in model.state_dict().values() if value.dim() == 4), None)
        channels = 3 if first is None else first.shape[1]
        for name in names:
            if name in listed:
                yield "timm", name, {}
                if channels != 3:
                    yield "timm", name, {"in_chans": channels}


def is_of_library(model: nn.Module) -> bool:
    """Return whether torchvision or timm made a network as one of those it lists, changed since or not."""
    home = type(model).__module__
    if not home.startswith("torchvision.models."):
        return home.startswith("timm.models.")
    from torchvision import models

    # Its detectors and the like are in files of their own.
    return any(models.get_model_builder(name).__module__ == home for name in listed_names("torchvision"))


def last_layer(model: nn.Module) -> Layer | None:
    """Return the layer that makes the scores: the last linear layer, or convolution; None without any."""
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    return layers[-1] if layers else None


def width_of(layer: Layer) -> int:
    """Return how many scores a layer makes."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def library_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what samples the published weights of a library's network take, under the names of our facts.

    Args:
        config: What :class:`~nonlocalnn.checkpoints.description.Description` says: ``library``, ``name`` and
            ``overrides``.

    Returns:
        ``sample_shape``, ``mean`` and ``standard_deviation`` (of values from 0 to 255), of videos ``stride``,
        and of segmentation ``task``.

    Raises:
        ImportError: The library is not installed.

    Example:
        >>> library_facts({"library": "torchvision", "name": "resnet18", "overrides": {}})["sample_shape"]
        [3, 224, 224]
    """
    name = config["name"]
    module = import_library(config["library"], name)
    if config["library"] == "timm":
        noted = module.get_pretrained_cfg(name)
        channels = config["overrides"].get("in_chans", noted.input_size[0])
        size, mean, deviation = noted.input_size[1:], noted.mean, noted.std
    else:
        preset = module.models.get_model_weights(name).DEFAULT.transforms()
        # Presets of segmentation resize the short side, and cut nothing off.
        size = preset.crop_size if hasattr(preset, "crop_size") else preset.resize_size
        channels, mean, deviation = 3, preset.mean, preset.std
    height, width = size if len(size) == 2 else (size[0], size[0])
    facts: dict[str, Any] = {
        "sample_shape": [channels, height, width],
        "mean": _of_255(mean, channels),
        "standard_deviation": _of_255(deviation, channels),
    }
    if config["library"] == "torchvision" and _is_of_videos(name):
        # torchvision trains its video networks on 16 frames at 15 frames a second.
        facts |= {"sample_shape": [channels, 16, height, width], "stride": 2}
    if library_task(config["library"], name) == "segmentation":
        facts["task"] = "segmentation"
    return facts


def _of_255(values: Sequence[float], channels: int) -> list[float] | float:
    # Networks of other than three channels see the mean of all.
    return [255 * value for value in values] if len(values) == channels else 255 * sum(values) / len(values)


def _is_of_videos(name: str) -> bool:
    from torchvision import models

    return name in models.list_models(module=models.video)
