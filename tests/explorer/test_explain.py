"""The document of an input, decoded again and beside the maps it is made of."""

import base64
import io
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.affinity import class_effects, summarise
from nonlocalnn.data import load_dataset
from nonlocalnn.explorer import explain as explain_module
from nonlocalnn.explorer.explain import _Stored, explain, explain_file
from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.inference.classifier import Classifier
from nonlocalnn.tasks.inputs import ShownInput, take_sample
from tolerances import assert_near, near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
CLASSES = tuple(map(str, range(10)))


def digits_classifier(**settings):
    model = randomize_(nl.create_model("nl_digits", **settings)).eval()
    return Classifier(model, classes=CLASSES, sample_shape=(1, 28, 28), recipe={})


def clips_classifier(**settings):
    model = nl.create_model("nl2_c2d_tiny", **settings).eval()
    for name, parameter in model.named_parameters():
        if ".nl.norm" in name:
            nn.init.normal_(parameter)
    for block in nl.nonlocal_blocks(model).values():
        if block.w_f is not None:
            # Sums that begin higher: no query is without any weight.
            w = block.w_f.detach().chunk(2)[0]
            block.theta.bias.data.copy_(3 * w / w.norm() ** 2)
    return Classifier(model, classes=CLASSES, sample_shape=(3, 8, 32, 32), recipe={})


def even_levels(measure):
    return torch.from_numpy(np.frombuffer(base64.b64decode(measure["even"]), "<f4").copy())


def stored_rows(block, measure):
    """Decode a measure: its rows, (Q, *key sides)."""
    raw = zlib.decompress(base64.b64decode(measure["rows"]))
    scales = np.frombuffer(base64.b64decode(measure["scales"]), "<f4")
    dtype, top = (np.int8, 127) if measure["signed"] else (np.uint8, 255)
    values = np.frombuffer(raw, dtype).reshape(len(scales), *block["key_sides"]).astype(np.float32)
    return torch.from_numpy(values / top * scales.reshape(-1, *[1] * len(block["key_sides"])))


def places_of(block):
    return torch.cartesian_prod(*map(torch.tensor, block["query_places"])).view(-1, len(block["sides"]))


def assert_rows_equal(found, rows):
    """Check that rows differ by no more than half a step of 8 bits."""
    step = rows.flatten(1).abs().amax(1) / 127
    differences = (found - rows).flatten(1).abs().amax(1)
    assert bool((differences <= 0.51 * step + 1e-12).all())


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_rows_of_a_clip_are_those_of_the_maps(instantiation):
    loaded = clips_classifier(instantiation=instantiation)
    dataset = load_dataset("cue", "test")
    shown = take_sample(dataset, 3, split="test")
    document = json.loads(json.dumps(explain(loaded, shown, title="A clip", model="tiny")))
    x = dataset[3][0][None]
    probabilities = loaded.model.probabilities(x)[0].detach()
    assert document["kind"] == "video"
    assert document["truth"] == dataset.classes[dataset[3][1]] == "3"
    assert document["prediction"][0]["class"] == CLASSES[int(probabilities.argmax())]
    assert document["prediction"][0]["probability"] == near(float(probabilities.max()))
    effects = class_effects(loaded.model, x, target=int(probabilities.argmax()))
    assert [block["name"] for block in document["blocks"]] == list(effects) == ["layer2.0.nl", "layer3.0.nl"]
    for block in document["blocks"]:
        effect = effects[block["name"]]
        weights, places = effect.weights, places_of(block)
        assert len(places) == torch.Size(block["sides"]).numel()
        assert (tuple(block["sides"]), tuple(block["key_sides"])) == (
            weights.grid.sides,
            weights.key_grid.sides,
        )
        assert tuple(block["grid"]["steps"]) == weights.grid.steps
        assert tuple(block["key_grid"]["centres"]) == weights.key_grid.centres
        assert block["summary"] == near(summarise(weights).as_numbers())
        assert block["evenly"] == (block["summary"]["entropy"] >= 0.97)
        first, second = block["measures"]
        assert (first["name"], first["signed"]) == ("affinity", instantiation == "dot_product")
        assert (second["name"], second["signed"]) == ("effect", True)
        assert document["prediction"][0]["class"] in second["label"]
        assert_rows_equal(stored_rows(block, first), weights.rows(places.tolist())[0])
        assert_rows_equal(stored_rows(block, second), effect.rows(places.tolist())[0])
        for measure, rows in ((first, weights.rows(places.tolist())), (second, effect.rows(places.tolist()))):
            assert_near(even_levels(measure), rows[0].abs().flatten(1).mean(1))
    entropies = [block["summary"]["entropy"] for block in document["blocks"]]
    assert document["opens_on"] == document["blocks"][entropies.index(min(entropies))]["name"]
    assert [block["stands_out"] for block in document["blocks"]] == [3.0, 3.0]


def test_frames_of_a_clip_are_the_pixels():
    loaded = clips_classifier()
    shown = take_sample(load_dataset("cue", "test"), 5, split="test")
    document = explain(loaded, shown, title="", model="", effects=False)
    assert document["input"]["sides"] == [8, 32, 32]
    assert [measure["name"] for measure in document["blocks"][0]["measures"]] == ["affinity"]
    for number, address in enumerate(document["input"]["frames"]):
        head, data = address.split(",")
        assert head == "data:image/png;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        expected = (shown.pixels[:, number].permute(1, 2, 0) * 255).round().numpy()
        assert np.array_equal(pixels, expected)


def test_a_large_image_is_kept_as_a_photograph():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nl.NonLocal2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loaded = Classifier(model.eval(), classes=CLASSES[:4], sample_shape=(3, 96, 64), recipe={})
    image = torch.rand(3, 96, 64)
    document = explain(loaded, ShownInput("noise", image, image), title="", model="")
    assert document["kind"] == "image"
    (address,) = document["input"]["frames"]
    assert address.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).size == (64, 96)


def test_a_photograph_is_stored_in_its_own_resolution(tmp_path):
    loaded = digits_classifier()
    Image.new("L", (140, 90), 90).save(tmp_path / "photo.png")
    document = explain_file(loaded, tmp_path / "photo.png", title="", model="")
    assert (document["input"]["sides"], document["input"]["picture_sides"]) == ([28, 28], [90, 140])
    (address,) = document["input"]["frames"]
    assert Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).size == (140, 90)


def test_a_network_with_fresh_weights_attends_evenly_and_says_so():
    torch.manual_seed(0)
    model = nl.create_model("nl2_resnet_tiny", num_classes=10).eval()
    loaded = Classifier(model, classes=CLASSES, sample_shape=(3, 32, 32), recipe={})
    image = torch.rand(3, 32, 32)
    document = explain(loaded, ShownInput("noise", image, image), title="", model="")
    for block in document["blocks"]:
        weights = block["measures"][0]
        assert block["evenly"]
        # Nothing stands out of any row.
        assert bool((stored_rows(block, weights).flatten(1).amax(1) < 3 * even_levels(weights)).all())


def test_a_sequence_and_a_grey_image():
    model = nn.Sequential(nl.NonLocal1d(3), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    loaded = Classifier(model, classes=CLASSES[:3], sample_shape=(3, 384), recipe={})
    shown = take_sample(load_dataset("cue-sequence", "test"), 1, split="test")
    document = explain(loaded, shown, title="", model="")
    assert (document["kind"], document["input"]["frames"]) == ("sequence", [])
    torch.testing.assert_close(torch.tensor(document["input"]["channels"]), shown.pixels, atol=6e-5, rtol=0)
    grey = take_sample(load_dataset("digits", "test"), 0, split="test")
    document = explain(digits_classifier(), grey, title="", model="", blocks=["nl_2"])
    assert document["input"]["channels"] is None
    assert [block["name"] for block in document["blocks"]] == ["nl_2"]


def packed_bytes(document):
    measures = [block["measures"][0] for block in document["blocks"]]
    return sum(len(measure[name]) for measure in measures for name in ("rows", "scales", "even")) * 3 // 4


def test_rows_that_do_not_fit_are_thinned_in_space_only(monkeypatch):
    loaded = clips_classifier()
    shown = take_sample(load_dataset("cue", "test"), 3, split="test")
    whole = explain(loaded, shown, title="", model="", effects=False)
    monkeypatch.setattr(explain_module, "_MOST_BYTES", packed_bytes(whole) // 2)
    thinned = explain(loaded, shown, title="", model="", effects=False)
    assert thinned["blocks"][0]["query_places"] == [[0, 1, 2, 3], [1, 3, 5, 7], [1, 3, 5, 7]]
    assert packed_bytes(thinned) <= packed_bytes(whole) // 2
    monkeypatch.setattr(explain_module, "_MOST_BYTES", 10**9)
    # Before anything is computed: 4 x 8 x 8 queries on 4 x 4 x 4 keys are 16,384, the other block 1,024.
    monkeypatch.setattr(explain_module, "_MOST_RAW_BYTES", 6000)
    thinned = explain(loaded, shown, title="", model="", effects=False)
    assert [len(block["query_places"][1]) for block in thinned["blocks"]] == [4, 4]
    for block in thinned["blocks"]:
        assert block["query_places"][0] == [0, 1, 2, 3]
    # However little is allowed, something is shown.
    monkeypatch.setattr(explain_module, "_MOST_BYTES", 1)
    least = explain(loaded, shown, title="", model="", effects=False)
    assert [len(places) for places in least["blocks"][0]["query_places"]] == [4, 1, 1]


def test_files_and_wrong_inputs(tmp_path):
    loaded = digits_classifier()
    path = tmp_path / "seven.png"
    Image.fromarray(np.zeros((30, 60), np.uint8)).save(path)
    document = explain_file(loaded, path, title="A seven", model="digits")
    assert (document["title"], document["model"], document["input"]["sides"]) == (
        "A seven",
        "digits",
        [28, 28],
    )
    # This network's last layers fit one size.
    with pytest.raises(ValueError, match=r"the network does not take A seven, of shape \(1, 28, 56\)"):
        explain(loaded, loaded.show(path, whole=True), title="A seven", model="")
    with pytest.raises(ValueError, match="no non-local block 'nl_3'"):
        explain_file(loaded, path, title="", model="", blocks=["nl_3"])
    with pytest.raises(FileNotFoundError):
        explain_file(loaded, tmp_path / "none.png", title="", model="")


def test_rows_are_counted_for_each_measure():
    shown = SimpleNamespace(grid=SimpleNamespace(sides=(3, 5)), key_grid=SimpleNamespace(sides=(2, 4)))
    assert [_Stored("nl", shown, effect).raw_bytes for effect in (None, object())] == [120, 240]
