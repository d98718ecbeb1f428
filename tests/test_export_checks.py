"""What is checked before a file is exported: sizes that a network takes, libraries and settings."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import no_larger_files_than
from nonlocalnn.export import export_model
from nonlocalnn.export import model as export_code
from nonlocalnn.export.formats import write_pt2
from nonlocalnn.export.sizes import other_shapes


class Takes(nn.Module):
    """Take inputs of which each side is among some numbers, of as many dimensions as there are sides."""

    def __init__(self, *sides, error=RuntimeError):
        super().__init__()
        self.sides = sides
        self.error = error

    def forward(self, x):
        assert x.dim() == 2 + len(self.sides)
        assert x.shape[1] == 3
        for side, taken in zip(x.shape[2:], self.sides, strict=True):
            if side not in taken:
                raise self.error(f"no side of {side}")
        return x


ANY = range(100)


@pytest.mark.parametrize(
    ("sides", "example", "larger", "smaller"),
    [
        ((ANY,), (2, 3, 16), (3, 3, 20), (1, 3, 14)),
        ((ANY, ANY), (2, 3, 8, 16), (3, 3, 12, 20), (1, 3, 6, 14)),
        ((ANY, ANY, ANY), (1, 3, 4, 8, 16), (2, 3, 6, 12, 20), (1, 3, 3, 6, 14)),
        (((4, 8, 10), ANY), (1, 3, 8, 16), (2, 3, 10, 20), (1, 3, 4, 14)),
        ((ANY, (8, 16, 24)), (1, 3, 8, 16), (2, 3, 12, 24), (1, 3, 6, 8)),
        (((4, 8, 16), ANY), (1, 3, 8, 16), (2, 3, 16, 20), (1, 3, 4, 14)),
    ],
    ids=["1d", "2d", "3d", "height", "width", "height_doubled"],
)
def test_each_side_gets_the_first_sizes_that_the_network_takes(sides, example, larger, smaller):
    assert other_shapes(Takes(*sides), torch.zeros(example)) == (larger, smaller)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError, KeyError])
@pytest.mark.parametrize("taken", [(8,), (8, 12), (6, 8)], ids=["neither", "no_smaller", "no_larger"])
def test_a_side_without_a_larger_and_a_smaller_size_stays(taken, error):
    network = Takes(taken, ANY, error=error)
    assert other_shapes(network, torch.zeros(1, 3, 8, 16)) == ((2, 3, 8, 20), (1, 3, 8, 14))


def test_sizes_that_do_not_fit_are_no_news(caplog):
    network = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(64, 2))
    assert other_shapes(network, torch.zeros(2, 3, 16)) == ((3, 3, 16), (1, 3, 16))
    assert caplog.records == []


def test_no_side_becomes_empty():
    assert other_shapes(Takes(ANY, ANY), torch.zeros(1, 3, 1, 16)) == ((2, 3, 1, 20), (1, 3, 1, 14))
    assert other_shapes(Takes(ANY, ANY), torch.zeros(1, 3, 2, 16)) == ((2, 3, 3, 20), (1, 3, 1, 14))


class Pairs(nn.Module):
    """A module that takes pairs of samples."""

    def forward(self, x):
        return x.unflatten(0, (-1, 2)).mean(1)


def test_the_batch_stays_where_the_network_does_not_take_any():
    assert other_shapes(Pairs(), torch.zeros(4, 3, 8, 16)) == ((4, 3, 12, 20), (4, 3, 6, 14))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_each_library_for_onnx_is_asked_for(monkeypatch, missing):
    monkeypatch.setattr(
        export_code.importlib.util, "find_spec", lambda name: None if name == missing else name
    )
    with pytest.raises(ImportError, match=missing):
        export_code._checked_opset(Path("a.onnx"), "onnx", None)
    assert export_code._checked_opset(Path("a.pt2"), "pt2", None) is None


def test_the_operator_set_is_the_one_asked_for_or_the_default():
    assert export_code._checked_opset(Path("a.onnx"), "onnx", None) == 23
    assert [export_code._checked_opset(Path("a.onnx"), "onnx", opset) for opset in (18, 21)] == [18, 21]


@pytest.mark.parametrize("found", ["own++", "g++", "clang++", "none"])
def test_any_compiler_will_do_where_one_is_needed(monkeypatch, found):
    monkeypatch.setenv("CXX", "own++")
    monkeypatch.setattr(export_code.shutil, "which", lambda name: name if name == found else None)
    assert export_code._checked_opset(Path("a.pt2"), "pt2", None) is None
    with pytest.raises(FileNotFoundError, match="no C\\+\\+ compiler") if found == "none" else nullcontext():
        assert export_code._checked_opset(Path("a.pt2"), "aoti", None) is None


class Returns(nn.Module):
    def __init__(self, of_mean):
        super().__init__()
        self.of_mean = of_mean

    def forward(self, x):
        return self.of_mean(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("of_mean", "found"),
    [
        (lambda y: (y, y), "tuple"),
        (lambda y: [y], "list"),
        (lambda y: {"logits": y}, "dict"),
        (lambda y: {"out": (y,)}, "tuple"),
        (lambda y: None, "NoneType"),
        (lambda y: float(y.sum()), "float"),
        (lambda y: y > 0, "tensor of True and False"),
    ],
)
def test_a_model_must_return_one_tensor(tmp_path, of_mean, found):
    with pytest.raises(
        ValueError, match=f"must return one tensor of numbers; it returned a {found}: export a"
    ):
        export_model(Returns(of_mean), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))


class Writes(nn.Module):
    """Write into the input."""

    def forward(self, x):
        return x.sub_(0.5).mean((2, 3))


def test_the_example_stays_as_it_is(tmp_path):
    example = torch.ones(2, 3, 8, 8)
    export_model(Writes(), tmp_path / "a.pt2", format="pt2", example_input=example)
    assert torch.equal(example, torch.ones(2, 3, 8, 8))


class Taps(nn.Module):
    """Use what lies between a convolution and its norm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.body[1].running_var.fill_(4.0)

    def forward(self, x):
        y = self.body[0](x)
        return (y + self.body[1](y)).mean((2, 3))


def test_norms_stay_where_folding_would_change_the_outputs(tmp_path):
    model = Taps().eval()
    export_model(model, tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    x = torch.randn(3, 3, 6, 7)
    assert torch.allclose(torch.export.load(tmp_path / "a.pt2").module()(x), model(x), atol=1e-5)


def convolution():
    return nn.Sequential(nn.Conv2d(3, 2, 1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: convolution().to("meta"), ValueError, "0.weight has no numbers: it is on the meta device"),
        (lambda: torch.relu, TypeError, "model must be a torch.nn.Module; got a builtin_function"),
        (
            lambda: torch.export.export(convolution(), (torch.ones(2, 3, 8, 8),)).module(),
            ValueError,
            "the model is a traced or exported program",
        ),
        (
            lambda: torch.jit.trace(convolution(), torch.ones(2, 3, 8, 8)),
            ValueError,
            "the model is a traced or exported program",
        ),
        (
            lambda: nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(3, 2)),
            ValueError,
            "0 is quantised: export the model that it was made from",
        ),
    ],
    ids=["meta", "function", "program", "traced", "quantised"],
)
def test_what_is_no_model_to_export(tmp_path, make, error, says):
    with pytest.raises(error, match=says):
        export_model(make(), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_an_example_of_numpy(tmp_path):
    with pytest.raises(TypeError, match=r"example_input must be a torch\.Tensor; got a numpy\.ndarray"):
        export_model(
            convolution(), tmp_path / "a.pt2", format="pt2", example_input=np.zeros((2, 3, 8, 8), np.float32)
        )


def test_what_onnxruntime_lacks_in_float64(tmp_path):
    with pytest.raises(
        ValueError, match=r"lacks operators of float64: export copy\.deepcopy\(model\)\.float"
    ):
        export_model(convolution().double(), tmp_path / "a.onnx", sample_shape=(3, 8, 8))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return (x + y).mean((2, 3))


def test_a_model_of_two_inputs(tmp_path):
    with pytest.raises(ValueError, match=r"does not take an input of shape \(2, 3, 8, 8\): .*argument: 'y'"):
        export_model(TwoInputs(), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))


def test_a_batch_of_pairs_is_kept(tmp_path):
    report = export_model(Pairs(), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert report.dynamic == ("height", "width")


@pytest.mark.parametrize("shape", [(3, -1, 8), (3, 8.0, 8), (3, 0, 8), "388"])
def test_a_shape_of_other_than_whole_numbers(tmp_path, shape):
    with pytest.raises(
        ValueError, match="each size in sample_shape must be a whole number of at least 1; got "
    ):
        export_model(convolution(), tmp_path / "a.pt2", format="pt2", sample_shape=shape)


def test_an_example_without_samples(tmp_path):
    with pytest.raises(ValueError, match=r"none of them 0, .*; got shape \(0, 3, 8, 8\)"):
        export_model(convolution(), tmp_path / "a.pt2", format="pt2", example_input=torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize("opset", [17, 99, 18.5, "18"])
def test_operator_sets_that_there_are_not(opset):
    with pytest.raises(ValueError, match="opset must be a whole number from 18 to "):
        export_code._checked_opset(Path("a.onnx"), "onnx", opset)


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x @ x.mT)


def test_the_operator_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"to ONNX: No ONNX function found for .*aten\._linalg_eigh"):
        export_model(Eigenvalues(), tmp_path / "a.onnx", sample_shape=(3, 8, 8), dynamic=False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x.mT)[0]


def test_a_model_whose_size_pytorch_must_fix(tmp_path):
    with pytest.raises(ValueError, match=r"; dynamic=False \(--static\) fixes all sizes"):
        export_model(Recurrent(), tmp_path / "a.pt2", format="pt2", sample_shape=(3, 16))


def test_a_program_for_a_full_disk(tmp_path):
    program = torch.export.export(nn.Linear(100, 100), (torch.ones(2, 100),))
    with no_larger_files_than(20_000), pytest.raises(OSError, match="File too large"):
        write_pt2(program, tmp_path / "a.pt2", "{}")


class Noisy(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + 1e-3 * torch.randn(x.shape[0], x.shape[1])


def test_a_model_that_draws_random_numbers_is_refused(tmp_path):
    with pytest.raises(ArithmeticError, match=r"differs from the model by .*, more than 1e-04"):
        export_model(
            Noisy(), tmp_path / "a.pt2", format="pt2", example_input=torch.ones(2, 3, 8, 8), dynamic=False
        )


class Keeps(nn.Module):
    """Keep the last map, as for a look at it."""

    def __init__(self):
        super().__init__()
        self.layer, self.maps = nn.Conv2d(3, 4, 1), []

    def forward(self, x):
        self.last = self.layer(x)
        return self.last


def test_what_a_forward_pass_left_in_a_model_is_no_hindrance(tmp_path):
    model = Keeps()
    model(torch.rand(1, 3, 8, 8))
    model.maps.append(model.layer(torch.rand(1, 3, 8, 8)))
    export_model(model, tmp_path / "a.pt2", format="pt2", sample_shape=(3, 8, 8))
    assert model.last.grad_fn is not None


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_batch_is_open_however_kernels_lie(tmp_path, format):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nl.NonLocal2d(4), nn.Conv2d(4, 2, 3)).to(memory_format=format)
    report = export_model(model, tmp_path / "a.pt2", format="pt2", sample_shape=(3, 16, 20))
    assert report.dynamic == ("batch", "height", "width")
    assert model[0].weight.is_contiguous(memory_format=format)
