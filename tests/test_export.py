"""Exported files: they equal the model at other sizes, say what they are, and are not kept where wrong."""

import json
import re

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from helpers import BLOCKS, randomize_
from nonlocalnn import NonLocal2d, create_model
from nonlocalnn.export import METADATA_KEY, describe, export_model
from nonlocalnn.export import model as export_code
from nonlocalnn.functional import INSTANTIATIONS, concatenation, non_local
from nonlocalnn.inference.classifier import Classifier
from nonlocalnn.models import sample_shape
from tolerances import NETWORK, assert_near


class SmallNetwork(nn.Module):
    """A convolution and a block: as little as there is to export."""

    def __init__(self, instantiation, *, num_sides=2, **settings):
        super().__init__()
        self.first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[num_sides - 1](3, 8, 3, padding=1)
        self.block = BLOCKS[num_sides](8, instantiation=instantiation, **settings)

    def forward(self, x):
        return self.block(self.first(x)).flatten(2).mean(2)


def network(name, instantiation="embedded_gaussian"):
    """Return a preset whose blocks and norms are not the identity, but whose numbers stay small."""
    model = create_model(name, instantiation=instantiation).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                randomize_(module)
        for parameter_name, parameter in model.named_parameters():
            if "W_z" in parameter_name:
                parameter.normal_(0, 0.3)
    return model


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


OPERATORS = {
    "gaussian": ("Attention", "scaled_dot_product_attention"),
    "embedded_gaussian": ("Attention", "scaled_dot_product_attention"),
    "dot_product": ("MatMul", "matmul"),
    "concatenation": ("TopK, GatherElements, CumSum", "sort, gather, cumsum"),
}
EVERYTHING = {
    "nl_digits": ("batch",),
    "nl2_c1d_tiny": ("batch", "length"),
    "nl2_resnet_tiny": ("batch", "height", "width"),
    "nl2_c2d_tiny": ("batch", "time", "height", "width"),
}
# An export to ONNX takes seconds.
_QUICK = ("nl_digits", "embedded_gaussian")
CASES = [
    pytest.param(name, form, marks=() if (name, form) == _QUICK else pytest.mark.slow)
    for name in EVERYTHING
    for form in INSTANTIATIONS
]


@pytest.mark.parametrize(("name", "instantiation"), CASES)
def test_onnx_equals_the_model_at_sizes_it_was_not_made_with(tmp_path, name, instantiation):
    model, path = network(name, instantiation), tmp_path / "model.onnx"
    shape = sample_shape(name)
    report = export_model(model, path, sample_shape=shape)
    assert report.dynamic == EVERYTHING[name]
    assert report.operators == {instantiation: OPERATORS[instantiation][0]}
    assert report.num_bytes == path.stat().st_size
    assert len(report.parity) == 3
    onnx.checker.check_model(path)
    # Sizes that the export did not try either.
    sides = (
        shape[1:]
        if name == "nl_digits"
        else tuple(2 * side + 3 * place for place, side in enumerate(shape[1:]))
    )
    for batch in (1, 5):
        x = torch.randn(batch, shape[0], *sides)
        with torch.no_grad():
            assert_near(run_onnx(path, x), model(x), sums=NETWORK)


@pytest.mark.parametrize(
    "instantiation",
    [
        "embedded_gaussian",
        *(
            pytest.param(form, marks=pytest.mark.slow)
            for form in ("concatenation", "gaussian", "dot_product")
        ),
    ],
)
def test_pt2_round_trip(tmp_path, instantiation):
    model, path = SmallNetwork(instantiation).eval(), tmp_path / "model.pt2"
    randomize_(model)
    report = export_model(model, path, format="pt2", sample_shape=(3, 16, 20), metadata={"classes": ["a"]})
    assert report.operators == {instantiation: OPERATORS[instantiation][1]}
    assert report.dynamic == ("batch", "height", "width")
    extra = {f"{METADATA_KEY}.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra[f"{METADATA_KEY}.json"]) == {"classes": ["a"]}
    assert "nonlocalnn" not in str(program.graph_module)
    x = torch.randn(1, 3, 37, 11)
    with torch.no_grad():
        assert_near(program.module()(x), model(x), sums=NETWORK)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{"norm": "layer"}, {"sub_sample": "before"}], ids=["after", "before"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_pytorchs_older_export_to_onnx(tmp_path, instantiation, settings):
    model, x = randomize_(SmallNetwork(instantiation, **settings)).eval(), torch.randn(2, 3, 9, 8)
    torch.onnx.export(model, (x,), tmp_path / "a.onnx", dynamo=False, input_names=["input"])
    with torch.no_grad():
        assert_near(run_onnx(tmp_path / "a.onnx", x), model(x), sums=NETWORK)


@pytest.mark.parametrize(
    "extent", [pytest.param("space", marks=pytest.mark.slow), pytest.param("time", marks=pytest.mark.slow), 2]
)
@pytest.mark.slow
def test_clips_in_groups(tmp_path, extent):
    model = randomize_(SmallNetwork("gaussian", num_sides=3, extent=extent))
    report = export_model(model, tmp_path / "clips.pt2", format="pt2", sample_shape=(3, 8, 6, 10))
    assert report.dynamic == ("batch", "time", "height", "width")


def test_a_program_that_takes_no_other_sizes_is_not_kept(tmp_path, monkeypatch):
    trace = export_code.trace
    monkeypatch.setattr(export_code, "trace", lambda model, example, axes: trace(model, example, []))
    with pytest.raises(ValueError, match=r"does not take an input of shape .*; export with a larger example"):
        export_model(SmallNetwork("gaussian"), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_aoti_runs_at_other_sizes(tmp_path):
    model, path = SmallNetwork("embedded_gaussian").eval(), tmp_path / "model.pt2"
    randomize_(model)
    try:
        report = export_model(
            model, path, format="aoti", sample_shape=(3, 8, 12), metadata={"classes": ["a"]}
        )
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert report.dynamic == ("batch", "height", "width")
    package = torch._inductor.aoti_load_package(str(path))
    assert json.loads(package.get_metadata()[METADATA_KEY]) == {"classes": ["a"]}
    x = torch.randn(1, 3, 13, 18)
    with torch.no_grad():
        assert_near(package(x), model(x), sums=NETWORK)


def test_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no C\+\+ compiler: install g\+\+"):
        export_model(SmallNetwork("gaussian"), tmp_path / "a.pt2", format="aoti", sample_shape=(3, 8, 8))


@pytest.mark.slow
def test_older_operator_sets_have_no_attention(tmp_path):
    model, path = SmallNetwork("embedded_gaussian").eval(), tmp_path / "model.onnx"
    randomize_(model)
    report = export_model(model, path, sample_shape=(3, 8, 12), opset=20, dynamic=False)
    assert (report.opset, report.dynamic) == (20, ())
    assert report.operators == {"embedded_gaussian": "MatMul, Softmax"}
    assert list(report.parity) == [(2, 3, 8, 12)]
    assert onnx.load(path).opset_import[0].version == 20
    assert "opset 20" in str(report)


def test_the_file_says_what_it_takes(tmp_path):
    model = network("nl2_c2d_tiny")
    classifier = Classifier(
        model,
        classes=("run", "walk"),
        sample_shape=(3, 8, 32, 32),
        recipe={},
        stride=4,
        test_size=40,
        mean=114.75,
        standard_deviation=57.375,
    )
    facts = describe(classifier)
    small = SmallNetwork("dot_product")
    export_model(small, tmp_path / "model.onnx", sample_shape=(3, 8, 12), metadata=facts)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY]) == {
        "classes": ["run", "walk"],
        "sample_shape": [3, 8, 32, 32],
        "stride": 4,
        "test_size": 40,
        "mean": 114.75,
        "standard_deviation": 57.375,
        "multi_label": False,
    }
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert set(describe(Classifier(small, classes=("a",), sample_shape=(1, 8, 8), recipe={}))) == {
        "classes",
        "sample_shape",
    }


def test_the_model_stays_as_it_is(tmp_path):
    model = SmallNetwork("gaussian").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, tmp_path / "a.pt2", format="pt2", example_input=torch.randn(1, 3, 9, 9))
    assert model.training
    assert_near(model.state_dict(), before)


def test_a_program_that_differs_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_text("older")
    trace = export_code.trace
    monkeypatch.setattr(export_code, "trace", lambda model, *more: trace(randomize_(model), *more))
    with pytest.raises(ArithmeticError, match=r"differs from the model by .* nothing was written"):
        export_model(SmallNetwork("gaussian"), path, format="pt2", sample_shape=(3, 8, 8))
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_text() == "older"


class Spoilt(nn.Module):
    """A model one of whose outputs is not a number, or all."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, x):
        y = x.mean((2, 3))
        return (
            torch.where(torch.arange(y.shape[1]) == self.at, torch.nan, y) if self.at >= 0 else y * torch.nan
        )


class Given(nn.Module):
    """A model whose answer is given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


@pytest.mark.parametrize("where", ["the program", "the model", "both"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("num_spoilt", [1, 6])
def test_what_is_no_number_is_not_equal(where, value, num_spoilt):
    x = torch.arange(6.0).view(2, 3)
    spoilt = x.clone()
    spoilt.view(-1)[-num_spoilt:] = value
    program = spoilt if where != "the model" else x
    model = spoilt if where != "the program" else x
    says = "the exported program differs from the model by" if where == "the program" else "not all finite"
    with pytest.raises(ArithmeticError, match=says):
        export_code._difference(lambda _: program, Given(model), x)


@pytest.mark.parametrize("at", [1, -1], ids=["one output", "all"])
def test_a_model_that_gives_no_numbers_is_not_exported(tmp_path, at):
    with pytest.raises(ArithmeticError, match=r"outputs for an input of shape .* are not all finite"):
        export_model(Spoilt(at), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("part", "is_kept"), [(0.9, True), (1.1, False)])
def test_parity_is_a_part_of_the_largest_output(part, is_kept):
    expected = torch.tensor([[100.0, -400.0, 0.0]], dtype=torch.float64)
    moved = expected + torch.tensor([[0.0, 0.0, part * export_code.TOLERANCE * 400]], dtype=torch.float64)
    if is_kept:
        found = export_code._difference(lambda _: moved, Given(expected), expected)
        assert found == pytest.approx(part * export_code.TOLERANCE)
    else:
        with pytest.raises(ArithmeticError, match=r"by 1\.1e-04 of the largest output, more than 1e-04"):
            export_code._difference(lambda _: moved, Given(expected), expected)


class Cancelling(nn.Module):
    """A model that loses digits: what it adds and takes off again is far larger than its answer."""

    def forward(self, x):
        return (x + 1e4) - 1e4


@pytest.mark.parametrize(("wrong", "is_kept"), [(0.0, True), (2e-3, False)])
def test_a_model_that_rounds_coarsely_may_differ_by_its_own_rounding(wrong, is_kept):
    x = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) * 3
    model = Cancelling()
    assert float((model(x) - x).abs().max() / x.max()) > 1.5 * export_code.TOLERANCE

    def program(x):
        return x.double() * (1 + wrong)

    if is_kept:
        assert export_code._difference(program, model, x) > export_code.TOLERANCE
    else:
        with pytest.raises(ArithmeticError, match=r"differs from the model by .*, more than [67]e-04, for"):
            export_code._difference(program, model, x)


def test_the_oldest_operator_set_is_taken(tmp_path):
    assert export_code._checked_opset(tmp_path / "a.onnx", "onnx", 18) == 18
    assert export_code._checked_opset(tmp_path / "a.onnx", "onnx", None) == 23


def test_an_example_of_one_sample_leaves_the_batch_open_and_the_size_is_the_files(tmp_path):
    example = torch.randn(1, 3, 9, 9)
    for given, number in ((example, 2), (example.expand(3, -1, -1, -1), 3)):
        taken, answer = export_code._example(nn.Identity(), given, None)
        assert taken.shape == answer.shape == (number, 3, 9, 9)
    report = export_model(nn.Flatten(2), tmp_path / "a.pt2", format="pt2", example_input=example)
    assert report.num_bytes == (tmp_path / "a.pt2").stat().st_size > 0


def test_another_shape_is_not_equal():
    with pytest.raises(ArithmeticError, match=r"gives shape \(1, 3\) where the model gives \(2, 3\)"):
        export_code._difference(lambda _: torch.ones(1, 3), lambda _: torch.ones(2, 3), torch.ones(2, 3))


def wrong(**settings):
    return {"format": "pt2", "sample_shape": (3, 8, 8), **settings}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("a.onnx", wrong(format="onxx"), "format must be one of 'onnx', 'pt2', 'aoti'; got 'onxx'"),
        ("a.onnx", wrong(), "must end in .pt2; got a.onnx"),
        ("a.onnx", wrong(format="onnx", opset=17), "opset must be a whole number from 18 to"),
        ("a.pt2", wrong(opset=23), "opset is a setting of the format 'onnx'"),
        ("a.pt2", wrong(sample_shape=None), "by one of the two"),
        ("a.pt2", wrong(example_input=torch.zeros(2, 3, 8, 8)), "by one of the two"),
        ("a.pt2", wrong(sample_shape=(3,)), "one to three sides; got shape (2, 3)"),
        ("a.pt2", wrong(sample_shape=(4, 8, 8)), "does not take an input of shape (2, 4, 8, 8)"),
        ("a.pt2", wrong(metadata={"a": torch.zeros(1)}), "metadata must be JSON-ready"),
    ],
)
def test_errors(tmp_path, name, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_model(SmallNetwork("gaussian"), tmp_path / name, **settings)
    assert not list(tmp_path.iterdir())


def test_what_pytorch_or_onnxruntime_cannot_do_is_one_line(tmp_path):
    class Branches(SmallNetwork):
        def forward(self, x):
            return super().forward(x) * (1 if x.sum() > 0 else 2)

    with pytest.raises(ValueError, match="PyTorch cannot export the model: ") as raised:
        export_model(Branches("gaussian"), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export_code.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"nonlocalnn\[export\]"):
        export_model(SmallNetwork("gaussian"), tmp_path / "a.onnx", sample_shape=(3, 8, 8))


def test_concatenation_as_it_is_exported_equals_the_reference():
    a, b, g = torch.randn(2, 13).double(), torch.randn(2, 7).double(), torch.randn(2, 7, 3).double()
    b[0, 2] = -a[0, 5]  # a + b of exactly 0
    theta, phi = a.unsqueeze(2), b.unsqueeze(2)
    expected = non_local(
        theta, phi, g, instantiation="concatenation", w_f=torch.ones(2).double(), engine="reference"
    )
    assert_near(concatenation._exported_average(a, b, g, None), expected)
    count = torch.full((2, 1, 1), 14.0).double()
    assert_near(concatenation._exported_average(a, b, g, count), expected / 2)


def _pruned(model):
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def _normed(model):
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.spectral_norm(model[1].g)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        _pruned,
        _normed,
    ],
    ids=["compiled", "DataParallel", "averaged", "pruned", "normed"],
)
def test_wrapped_and_computed_weights(tmp_path, wrap):
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), NonLocal2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = wrap(randomize_(plain)).eval()
    keys = list(model.state_dict())
    export_model(model, tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert list(model.state_dict()) == keys
    x = torch.rand(2, 3, 6, 7)
    found = torch.export.load(tmp_path / "a.pt2").module()(x)
    assert_near(found, model(x), sums=NETWORK)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_refused_before_they_are_traced(tmp_path, dtype):
    model = create_model("nl2_c1d_tiny").to(dtype)
    with pytest.raises(ValueError, match=rf"is {dtype}, whose rounding .*\.float\(\)"):
        export_model(model, tmp_path / "a.pt2", format="pt2", sample_shape=(3, 64))
    assert not list(tmp_path.iterdir())
