"""``nonlocalnn evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nonlocalnn._files import write_text
from nonlocalnn.cli.common import add_model_arguments, command_parser, load_classifier
from nonlocalnn.data import list_datasets
from nonlocalnn.evaluate import evaluate, resolve_device
from nonlocalnn.explorer import draw_confusion


def run(words: Sequence[str]) -> int:
    """Evaluate a checkpoint on a data set; write metrics.json and confusion.png."""
    parser = command_parser(
        "evaluate",
        "Accuracy, recall and precision of each class, and the confusion matrix.",
        "nonlocalnn evaluate --model runs/digits --data digits --output runs/digits/evaluation",
    )
    add_model_arguments(parser)
    parser.add_argument("--data", choices=list_datasets(), help="default: what the model was trained on")
    parser.add_argument("--data-dir", type=Path, help="folder of the data set")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="samples a forward pass (default: 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("runs/evaluation"), help="folder of the results")
    args = parser.parse_args(words)
    loaded = load_classifier(args.model)
    data = args.data or loaded.recipe.get("data")
    if data is None:
        parser.error("--data is needed: the checkpoint does not say what it was trained on")
    dataset = loaded.load_dataset(data, args.split, data_dir=args.data_dir or loaded.recipe.get("data_dir"))
    if dataset.classes != loaded.classes:
        raise ValueError(
            f"the model knows the classes {', '.join(loaded.classes)}; "
            f"{data} has {', '.join(dataset.classes)}"
        )
    device = resolve_device(args.device)
    found = evaluate(
        loaded.model.to(device),
        dataset,
        batch_size=args.batch_size,
        device=device,
        precision=args.precision,
        num_workers=args.num_workers,
    )
    report = {"model": str(args.model), "data": data, "split": args.split, **found.to_dict()}
    write_text(args.output / "metrics.json", json.dumps(report, indent=2) + "\n")
    draw_confusion(found.confusion, found.classes, args.output / "confusion.png")
    print(found.per_class_table())
    print(f"accuracy {found.accuracy:.4f} on {found.num_samples} samples of {data}/{args.split}")
    print(f"results  {args.output}")
    return 0
