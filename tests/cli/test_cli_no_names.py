"""Every command that looks at a model takes one whose file names neither classes nor samples."""

import json
import pickle

import pytest
import torch
from one_line import fails
from PIL import Image
from torch import nn

import nonlocalnn as nl
from alexhex7 import randomized
from foreign_video_networks import MMAction2, Official, SlowFast
from nonlocalnn.cli import main
from videos import grey_frames, write_video


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A film, a photograph, and folders of two classes of each."""
    folder = tmp_path_factory.mktemp("places")
    write_video(folder / "film.mp4", grey_frames(40))
    Image.radial_gradient("L").convert("RGB").save(folder / "photo.png")
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (folder / "images" / split / name).mkdir(parents=True)
            for place in range(3):
                colour = (90 * number, 40 * place, 10)
                Image.new("RGB", (40, 30), colour).save(folder / "images" / split / name / f"{place}.png")
            write_video(folder / "videos" / split / name / "a.mp4", grey_frames(20))
    return folder


def torchvision_models():
    return pytest.importorskip("torchvision", reason="needs torchvision").models


def by_name(name, **overrides):
    return lambda path: nl.save_checkpoint(nl.create_model(name, num_classes=2, **overrides), path)


def resnet18(path, **settings):
    model = torchvision_models().resnet18()
    model.fc = nn.Linear(512, 2)
    nl.insert_nonlocal_(model, ["layer4"], **settings)
    nl.save_checkpoint(model, path)


def r3d_18(path):
    model = torchvision_models().video.r3d_18(num_classes=2)
    nl.insert_nonlocal_(model, ["layer4"], example_input=torch.rand(1, 3, 4, 16, 16))
    nl.save_checkpoint(model, path)


def with_inserted(path):
    model = nl.create_model("resnet_tiny", num_classes=2)
    nl.insert_nonlocal_(model, ["layer3.0"])
    nl.save_checkpoint(model, path)


def alexhex7(path):
    torch.save(randomized("embedded_gaussian").state_dict(), path)


def slowfast(path):
    torch.save({"epoch": 1, "model_state": SlowFast(blocks={3: (1,)}).state}, path)


def mmaction2(path):
    torch.save({"meta": {}, "state_dict": dict(MMAction2(blocks={3: (1,)}).state)}, path)


def official(path):
    blobs = {key: value.numpy() for key, value in Official(blocks={3: (1,)}).state.items()}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))


PAPER = "mean 114.75, standard deviation 57.375"
# The file's name, what writes it, the kind of its samples, and what is said of them.
MODELS = {
    "tiny of images": (
        "m.safetensors",
        by_name("nl2_resnet_tiny"),
        "photo.png",
        "images of 32 x 32 pixels, 3",
    ),
    "tiny of videos": (
        "m.safetensors",
        by_name("nl2_c2d_tiny"),
        "film.mp4",
        "clips of 8 frames, one in 1, of 37",
    ),
    "digits": (
        "m.safetensors",
        by_name("nl_digits", image_size=20),
        "photo.png",
        "images of 20 x 20 pixels, 1",
    ),
    "i3d": (
        "m.safetensors",
        by_name("nl1_i3d_r50_8x8", width=2),
        "film.mp4",
        f"classes 0 to 1; clips of 8 frames, one in 8, of 256 pixels, 3 channels, {PAPER}",
    ),
    "other sides than its name's": (
        "m.safetensors",
        by_name("nl2_resnet_tiny", num_sides=3),
        "film.mp4",
        "clips of 8 frames, one in 1, of 256 pixels",
    ),
    "with an inserted block": ("m.safetensors", with_inserted, "photo.png", "images of 32 x 32 pixels"),
    "resnet18": (
        "m.safetensors",
        resnet18,
        "photo.png",
        "images of 224 x 224 pixels, 3 channels, mean 123.675 116.28 103.53, standard deviation",
    ),
    "r3d_18": (
        "m.safetensors",
        r3d_18,
        "film.mp4",
        "clips of 16 frames, one in 2, of 112 pixels, 3 channels",
    ),
    "AlexHex7": (
        "their.pth",
        alexhex7,
        "photo.png",
        "images of 28 x 28 pixels, 1 channel, values from 0 to 1",
    ),
}


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    "name",
    [name if name in ("i3d", "resnet18") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_a_page(tmp_path, places, capsys, name):
    torch.manual_seed(0)
    file, save, sample, says = MODELS[name]
    save(tmp_path / file)
    words = [
        "explain",
        places / sample,
        "--model",
        tmp_path / file,
        "-o",
        tmp_path / "a.html",
        "--no-effects",
    ]
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"nonlocalnn explain: {tmp_path / file} does not say, assumed: classes")
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert (tmp_path / "a.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "name",
    [
        "tiny of images",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny of videos", "resnet18")),
    ],
)
def test_maps_and_predictions(tmp_path, places, capsys, name):
    torch.manual_seed(0)
    file, save, sample, _ = MODELS[name]
    save(tmp_path / file)
    assert run("maps", places / sample, "--model", tmp_path / file, "--output", tmp_path / "maps") == 0
    assert "nonlocalnn maps: " in capsys.readouterr().err
    assert run("predict", places / sample, "--model", tmp_path / file) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["class"] in ("0", "1")
    assert "nonlocalnn predict: " in captured.err
    (tmp_path / "list.txt").write_text(f"{places / sample}\n")
    words = ["--list", tmp_path / "list.txt", "--output-folder", tmp_path / "bulk", "--num-workers", 0]
    assert run("predict", *words, "--model", tmp_path / file) == 0
    assert "does not say, assumed: classes 0 to 1; " in capsys.readouterr().err
    in_bulk = json.loads((tmp_path / "bulk" / "part-000000.jsonl").read_text())
    assert in_bulk["class"] == answer["class"]
    assert in_bulk["probability"] == pytest.approx(answer["probability"], abs=1e-5)


def test_images_of_torchvision_are_normalised(tmp_path, places):
    torch.manual_seed(0)
    resnet18(tmp_path / "m.safetensors")
    loaded = nl.load_classifier(tmp_path / "m.safetensors")
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.rand(2, 3, 224, 224)
    expected = (pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    torch.testing.assert_close(loaded.kind.prepare(pixels, loaded), expected)
    from nonlocalnn.data import read_image

    image = read_image(places / "photo.png", image_size=(224, 224), channels=3)
    with torch.no_grad():
        by_hand = loaded.model(loaded.kind.prepare(image[None], loaded)).softmax(1)[0]
        other = loaded.model(image[None]).softmax(1)[0]
    found = {row["class"]: row["probability"] for row in loaded.predict(places / "photo.png")["top"]}
    torch.testing.assert_close(torch.tensor([found["0"], found["1"]]), by_hand)
    assert not torch.allclose(by_hand, other, atol=1e-3)


CONVERTED = {
    "slowfast": ("x.pyth", slowfast, 114.75, "clips of 8 frames, one in 8"),
    "mmaction2": ("x.pth", mmaction2, (123.675, 116.28, 103.53), "clips of 32 frames, one in 2"),
    "official": ("i3d_8x8.pkl", official, 114.75, "clips of 8 frames, one in 8"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_files_of_other_code_bases(tmp_path, places, capsys, name):
    """As they are and converted: the same facts, and the same answer."""
    torch.manual_seed(0)
    file, save, mean, clips = CONVERTED[name]
    save(tmp_path / file)
    direct = nl.load_classifier(tmp_path / file)
    assert run("convert", tmp_path / file, tmp_path / "ours.safetensors") == 0
    converted = nl.load_classifier(tmp_path / "ours.safetensors")
    assert direct.facts() == converted.facts()
    assert (tuple(direct.mean) if isinstance(mean, tuple) else direct.mean) == mean
    assert clips in direct.assumptions
    assert converted.assumptions == ""
    capsys.readouterr()
    for model in (file, "ours.safetensors"):
        assert run("predict", places / "film.mp4", "--model", tmp_path / model) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == json.loads(second)


def test_names_for_a_converted_file(tmp_path, capsys):
    torch.manual_seed(0)
    slowfast(tmp_path / "x.pyth")
    number = len(nl.load_classifier(tmp_path / "x.pyth").classes)
    names = [f"class {place}" for place in range(number)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    words = [tmp_path / "x.pyth", tmp_path / "ours.safetensors", "--classes", tmp_path / "names.txt"]
    assert run("convert", *words) == 0
    assert nl.load_classifier(tmp_path / "ours.safetensors").classes == tuple(names)
    (tmp_path / "names.txt").write_text("\n".join(names[1:]))
    fails(capsys, "convert", *words, status=1, says=f"must name {number} different classes, one a line")
    fails(capsys, "convert", *words[:3], tmp_path / "none.txt", status=1, says="none.txt")


@pytest.mark.parametrize(("name", "data"), [("resnet18", "images"), ("tiny of videos", "videos")])
def test_an_evaluation_by_numbers(tmp_path, places, capsys, name, data):
    torch.manual_seed(0)
    file, save, _, _ = MODELS[name]
    save(tmp_path / file)
    words = ["evaluate", "--model", tmp_path / file, "--data", data, "--data-dir", places / data]
    assert run(*words, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert f"the model has numbers for classes: 0 to 1 are those of {data} in its order, cat, dog" in said
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["classes"] == ["cat", "dog"]


def test_an_evaluation_with_another_number_of_classes(tmp_path, places, capsys):
    nl.save_checkpoint(nl.create_model("resnet_tiny", num_classes=3), tmp_path / "m.safetensors")
    words = ["evaluate", "--model", tmp_path / "m.safetensors", "--data", "images"]
    assert run(*words, "--data-dir", places / "images") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("nonlocalnn evaluate: the model knows 3 classes, images has 2")
    assert len(said) == 2


@pytest.mark.slow
def test_an_evaluation_of_sequences(tmp_path, capsys):
    nl.save_checkpoint(nl.create_model("nl2_c1d_tiny"), tmp_path / "m.safetensors")
    words = ["--model", tmp_path / "m.safetensors", "--data", "cue-sequence"]
    assert run("maps", *words, "--output", tmp_path / "maps") == 0
    assert "sequences of 64 steps, 3 channels" in capsys.readouterr().err


def test_what_cannot_be_made_again_says_what_to_do(tmp_path, places, capsys):
    nl.save_checkpoint(nn.Sequential(nn.Conv2d(3, 8, 3), nl.NonLocal2d(8)), tmp_path / "own.safetensors")
    for command in ("explain", "maps", "predict"):
        words = [command, places / "photo.png", "--model", tmp_path / "own.safetensors"]
        fails(
            capsys,
            *words,
            status=1,
            says="what save_checkpoint writes of networks of create_model, torchvision or timm",
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny of images", "resnet18"])
def test_the_explorer_takes_it(tmp_path, places, capfd, name):
    from nonlocalnn.explorer.explain import explain_file
    from nonlocalnn.explorer.jobs import JobQueue

    file, save, _, _ = MODELS[name]
    save(tmp_path / file)
    with JobQueue({"mine": tmp_path / file}, explain_file) as queue:
        assert queue.kinds == {"mine": "image"}
    assert "nonlocalnn explore: " in capfd.readouterr().err


def test_a_file_for_the_hub_says_everything(tmp_path):
    from nonlocalnn import hub

    resnet18(tmp_path / "m.safetensors")
    folder = hub.save_pretrained(tmp_path / "m.safetensors", tmp_path / "hub")
    again = hub.from_pretrained(folder)
    assert again.assumptions == ""
    assert again.facts() == nl.load_classifier(tmp_path / "m.safetensors").facts()
    card = (folder / "README.md").read_text()
    assert "- Network: `resnet18` of torchvision" in card
    assert "block after layer4" in card
