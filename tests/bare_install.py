"""Try every command with what `pip install nonlocalnn` brings alone, and print what came as JSON."""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

EXTRAS = {
    *("PIL", "av", "huggingface_hub", "jsonargparse", "matplotlib", "mmcv", "multipart", "onnx"),
    *("faster_coco_eval", "nibabel", "pyarrow", "pycocotools", "pydicom", "tensorboard", "onnxruntime"),
    *("onnxscript", "openvino", "python_multipart", "ray", "scipy", "sklearn", "starlette", "timm"),
    *("torchcodec", "torchvision", "tqdm", "uvicorn", "yaml"),
}


class Hiding:
    """A finder of modules that does not find the extras' libraries, as where they are not installed."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in EXTRAS else self._finder.find_spec(name, path, target)


def called(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

    import torch

    import nonlocalnn as nl
    from alexhex7 import TheirNetwork
    from nonlocalnn.cli import COMMANDS, main

    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    model = nl.create_model("nl_digits").eval()
    classes = [f"digit {number}" for number in range(10)]
    nl.save_checkpoint(
        model, folder / "model.safetensors", metadata={"classes": classes, "sample_shape": [1, 28, 28]}
    )
    found = nl.load_checkpoint(folder / "model.safetensors").eval()
    x = torch.rand(2, 1, 28, 28)
    torch.save(TheirNetwork("gaussian").state_dict(), folder / "theirs.pth")
    (folder / "a.png").write_bytes(b"an image")
    (folder / "a.mp4").write_bytes(b"a video")
    weights, image, output = str(folder / "model.safetensors"), str(folder / "a.png"), str(folder / "out")
    (folder / "list.txt").write_text("a.png\n")
    by_list = ["predict", "--list", str(folder / "list.txt"), "--output-folder", output, "--model", weights]
    calls = {
        "models": ["models"],
        "cost": ["cost", "nl_digits"],
        "convert": ["convert", str(folder / "theirs.pth"), output + ".safetensors"],
        "export pt2": ["export", weights, "--format", "pt2", "--output", output + ".pt2"],
        "export onnx": ["export", weights, "--format", "onnx", "--output", output + ".onnx"],
        "train": ["train", "--data", "digits", "--output", output],
        "evaluate": ["evaluate", "--model", weights, "--data", "digits"],
        "predict": ["predict", image, "--model", weights],
        "predict by ray": [*by_list, "--engine", "ray"],
        "maps": ["maps", image, "--model", weights, "--output", output],
        "explain": ["explain", image, "--model", weights, "-o", output + ".html"],
        "doctor": ["doctor", weights, "--data", "digits"],
        "explore": ["explore", "--model", weights],
        "data check": ["data", "check", str(folder / "a.mp4"), "--workers", "1"],
    }
    answers = {name: called(*words) for name, words in calls.items()}
    helps = {name: called(name, "--help") for name in COMMANDS}
    print(json.dumps({"same": torch.equal(found(x), model(x)), "answers": answers, "helps": helps}))
