"""One forward pass gives a page its answer, its maps and its effects."""

import pytest
import torch
from fake_explain import count_passes
from PIL import Image
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity import class_effects
from nonlocalnn.cli import main
from nonlocalnn.data import load_dataset
from nonlocalnn.explorer.answer import answer_with_maps
from nonlocalnn.explorer.deletion import deletion_test
from nonlocalnn.explorer.explain import explain, explain_file
from nonlocalnn.explorer.worker import _load as open_model
from nonlocalnn.inference import Classifier
from nonlocalnn.tasks.inputs import ShownInput, take_sample
from tolerances import assert_near
from videos import grey_frames, write_video

CLASSES = tuple(map(str, range(10)))


def sequences_network():
    layers = (
        nn.Conv1d(3, 8, 9, 4, 4),
        nl.NonLocal1d(8),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    return nn.Sequential(*layers)


MODELS = {
    "image": (lambda: nl.create_model("nl_digits"), (1, 28, 28)),
    "video": (lambda: nl.create_model("nl2_c2d_tiny"), (3, 8, 32, 32)),
    "sequence": (sequences_network, (3, 384)),
}


def classifier(kind, **settings):
    make, shape = MODELS[kind]
    torch.manual_seed(0)
    model = randomize_(make()).eval()
    return Classifier(model, classes=CLASSES, sample_shape=shape, recipe={}, **settings)


@pytest.mark.parametrize("effects", [True, False], ids=["effects", "no effects"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_page_takes_one_pass(kind, effects):
    loaded = classifier(kind)
    sample = torch.rand(loaded.sample_shape)
    with count_passes(loaded.model) as passes:
        document = explain(loaded, ShownInput("x", sample, sample), title="", model="", effects=effects)
    assert len(passes) == 1
    assert [len(block["measures"]) for block in document["blocks"]] == [1 + effects] * len(document["blocks"])


def test_a_page_of_a_file_takes_one_pass(tmp_path):
    loaded = classifier("video", test_size=37)
    write_video(tmp_path / "clip.mp4", grey_frames(12, height=48, width=64))
    with count_passes(loaded.model) as passes:
        document = explain_file(loaded, tmp_path / "clip.mp4", title="", model="")
    assert len(passes) == 1
    # What predict says, which looks at all places of clips that are larger than those of the training.
    expected = loaded.predict(tmp_path / "clip.mp4", top=5)["top"]
    assert [row["class"] for row in document["prediction"]] == [row["class"] for row in expected]
    assert_near(
        [row["probability"] for row in document["prediction"]], [row["probability"] for row in expected],
        sums=1000,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "model"), [("passes-1.png", "first"), ("passes-1.mp4", "clips")])
def test_the_worker_of_the_server_takes_one_pass(client, inputs, name, model):
    content = (inputs / ("cat.png" if model == "first" else "deep.mp4")).read_bytes()
    posted = client.explain(name, content, model)
    assert client.finish(posted)["state"] == "done"
    assert client.document(posted.json["id"], model).json["passes"] == 1


def test_the_deletion_test_takes_a_pass_for_the_maps_and_one_for_the_gradient():
    loaded = classifier("image")
    with count_passes(loaded.model) as passes:
        deletion_test(loaded, torch.rand(1, 28, 28), blocks=["nl_2"], fractions=(0.5,), num_random=2)
    assert len(passes) == 3


def test_pictures_of_maps_take_one_pass(tmp_path, monkeypatch):
    from nonlocalnn.cli import maps

    loaded = classifier("image")
    monkeypatch.setattr(maps, "load_model", lambda *_, **__: loaded)
    words = ["maps", "--data", "digits", "--model", "any", "--output", str(tmp_path), "--blocks", "nl_2"]
    with count_passes(loaded.model) as passes:
        assert main(words) == 0
    assert len(passes) == 1


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True], ids=["", "frozen"])
def test_the_answer_and_the_effects_of_one_pass_are_those_of_their_own(is_frozen, multi_label):
    loaded = classifier("video", test_size=37, multi_label=multi_label)
    loaded.model.requires_grad_(not is_frozen)
    sample = torch.rand(3, 8, 37, 37)
    answer = answer_with_maps(loaded, sample, effects=True)
    expected = loaded.ask(sample[None])[0]
    assert_near(answer.probabilities, expected, dtype=torch.float32, sums=1000)
    effects = class_effects(loaded.model, sample[None], target=int(expected.argmax()))
    assert list(answer.effects) == list(answer.maps) == list(effects)
    for name, effect in effects.items():
        query = [(1, 2, 3)]
        assert_near(answer.effects[name].rows(query), effect.rows(query), sums=1000)
        assert_near(answer.maps[name].rows(query), effect.weights.rows(query), sums=1000)
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_a_sample_of_a_data_set(tmp_path):
    loaded = classifier("image")
    shown = take_sample(load_dataset("digits", "test"), 3, split="test")
    answer = answer_with_maps(loaded, shown.sample)
    assert_near(answer.probabilities, loaded.model(shown.sample[None])[0].softmax(0).double(),
                dtype=torch.float32, sums=1000)  # fmt: skip
    assert answer.effects == {}
    with pytest.raises(ValueError, match=r"the network does not take a photo, of shape \(1, 60, 28\): "):
        answer_with_maps(loaded, torch.rand(1, 60, 28), name="a photo")


@pytest.mark.parametrize("name", ["nl_fcn_tiny", "nl1_maskrcnn_tiny"])
def test_the_server_takes_networks_that_answer_for_places(tmp_path, name):
    torch.manual_seed(0)
    nl.save_checkpoint(randomize_(nl.create_model(name)), tmp_path / "scenes.safetensors")
    Image.new("RGB", (70, 50), "orange").save(tmp_path / "upload", format="png")
    loaded = open_model(tmp_path / "scenes.safetensors")
    document = explain_file(loaded, tmp_path / "upload", title="photo.png", model="scenes")
    assert (document["kind"], document["input"]["file_sides"]) == ("image", [50, 70])
    # The picture with the classes of its pixels, or with its objects.
    assert document["input"]["labels"].startswith("data:image/")
