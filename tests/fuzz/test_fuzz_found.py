"""What fuzzing found once, one case each."""

import math
import struct

import pytest
import torch

import nonlocalnn as nl
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.cli.recipe_parser import RecipeParser
from nonlocalnn.data.video.lists import read_video_list
from nonlocalnn.functional import affinity, non_local
from tolerances import assert_near


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1], ids=["query", "key"])
def test_concatenation_of_what_is_not_finite(value, place):
    """A query that is no number is answered by none, and the others as without it."""
    parts = [torch.randn(1, 5, 3, requires_grad=True), torch.randn(1, 40, 3, requires_grad=True)]
    g, w_f = torch.randn(1, 40, 2), torch.randn(6)
    clean = non_local(*parts, g, instantiation="concatenation", w_f=w_f)
    spoilt = [part.detach().clone() for part in parts]
    spoilt[place][0, 2] = value
    spoilt = [part.requires_grad_() for part in spoilt]
    y = non_local(*spoilt, g, instantiation="concatenation", w_f=w_f, engine="fused")
    y.sum().backward()
    if place == 0:
        assert not (math.isnan(value) and y[0, 2].isfinite().any())
        others = [0, 1, 3, 4]
        assert_near(y[0, others], clean[0, others])
    elif math.isnan(value):
        assert y.isnan().all()


def test_concatenation_in_float16_sums_in_float32():
    theta, phi = (torch.full((1, 2, 64), 50.0, dtype=torch.float16) for _ in range(2))
    g, w_f = torch.full((1, 2, 1), 0.01, dtype=torch.float16), torch.full((128,), 50.0, dtype=torch.float16)
    y = non_local(theta, phi, g, instantiation="concatenation", w_f=w_f)
    assert_near(y, torch.full((1, 2, 1), 3200.0, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_that_only_store(dtype):
    part = torch.ones(1, 2, 3).to(dtype)
    with pytest.raises(ValueError, match=r"theta must be floating point; got torch\.float8"):
        affinity(part, part, instantiation="gaussian")
    with pytest.raises(ValueError, match=r"x must be floating point; got torch\.float8"):
        nl.NonLocal1d(2)(torch.ones(1, 2, 3).to(dtype))


@pytest.mark.parametrize("scale", [math.nan, math.inf, 10**400, "0.5"], ids=["NaN", "inf", "digits", "text"])
def test_scales_that_are_no_numbers(scale):
    part = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match=r"scale must be a finite number; got"):
        non_local(part, part, part, instantiation="gaussian", scale=scale)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
def test_types_of_w_f(dtype):
    part = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match="w_f must be floating point; got"):
        non_local(part, part, part, instantiation="concatenation", w_f=torch.ones(6, dtype=dtype))


def test_a_map_of_another_type_than_the_block():
    block = nl.NonLocal1d(4, instantiation="concatenation", norm=None, zero_init=False).double()
    x = torch.randn(2, 4, 6)
    assert_near(block(x).double(), block(x.double()), dtype=torch.float32)


@pytest.mark.parametrize("setting", ["use_scale", "zero_init"])
def test_settings_that_are_true_or_false(setting):
    with pytest.raises(ValueError, match=f"{setting} must be one of True, False; got 'no'"):
        nl.NonLocal2d(4, **{setting: "no"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1"),
        ({"num_classes": True}, "num_classes must be a whole number of at least 1"),
        ({"width": -1}, "width must be a whole number from 1 to 1048576; got -1"),
        ({"width": 10**40}, "width must be a whole number"),
        ({"in_channels": 1.5}, "in_channels must be a whole number"),
        ({"window": 0}, "window must be a whole number"),
        ({"dropout": math.nan}, "dropout must be from 0 to 1; got nan"),
        ({"depth": [1, 1, 1, 10**9]}, "four lengths of at least 1 and at most 256"),
        ({"blocks": "all"}, "blocks must be a number or places"),
    ],
    ids=str,
)
def test_settings_of_networks(settings, says):
    with pytest.raises(ValueError, match=says):
        nl.create_model("c2d_tiny", **settings)


@pytest.mark.parametrize("size", [7, [28], [28, 2.5], 10**9, "ab"], ids=str)
def test_sizes_of_digits(size):
    with pytest.raises(ValueError, match="image_size must be at least 8"):
        nl.create_model("nl_digits", image_size=size)


def test_names_of_sites_are_texts():
    with pytest.raises(ValueError, match=r"after must hold names of modules.*; got 3"):
        nl.insert_nonlocal_(nl.create_model("resnet_tiny"), [3])


def test_long_values_are_not_repeated_whole():
    with pytest.raises(ValueError, match="model must be one of") as caught:
        nl.create_model("x" * 10_000)
    assert len(str(caught.value)) < 1000


def test_a_zip_file_of_several_disks(tmp_path):
    torch.save(nl.create_model("nl_digits").state_dict(), tmp_path / "x.pth")
    data = bytearray((tmp_path / "x.pth").read_bytes())
    end = data.rindex(b"PK\x05\x06")
    # The record of large files, which says where the first part is: on a disk that is not here.
    data[end:end] = struct.pack("<4sLQL", b"PK\x06\x07", 5, 0, 9)
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged: zipfiles that span multiple disks"):
        nl.load_checkpoint(tmp_path / "x.pth", nl.create_model("nl_digits"))


@pytest.mark.parametrize(
    "change", [lambda part: part.to("meta"), lambda part: part + 1j, lambda part: part.to_sparse()],
    ids=["without memory", "complex", "sparse"],
)  # fmt: skip
def test_tensors_that_are_no_weights(tmp_path, change):
    state = nl.create_model("nl_digits").state_dict()
    state["fc.3.bias"] = change(state["fc.3.bias"])
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"must hold plain tensors of real numbers; fc\.3\.bias is"):
        nl.load_checkpoint(tmp_path / "x.pth", nl.create_model("nl_digits"))


@pytest.mark.parametrize("label", [1_000_000, 999_999_999_999])
def test_labels_that_would_make_too_many_names(tmp_path, label):
    (tmp_path / "list.txt").write_text(f"a.mp4 0\nb.mp4 {label}\n")
    with pytest.raises(ValueError, match=f"line 2: labels must be from 0 to 999999; got {label}"):
        read_video_list(tmp_path / "list.txt", root=tmp_path)


def test_a_long_line_is_not_repeated_whole(tmp_path):
    (tmp_path / "list.txt").write_text("x" * 9000)
    with pytest.raises(ValueError, match="line 1: must be a path and a label") as caught:
        read_video_list(tmp_path / "list.txt", root=tmp_path)
    assert len(str(caught.value)) < 800


def test_a_recipe_that_is_not_utf_8(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"data: \xff\n")
    parser = RecipeParser(program="train", description="", example="")
    with pytest.raises(ValueError, match=r"--config must be .*text in UTF-8; byte 6 is not"):
        parser.parse_words(["--config", str(tmp_path / "recipe.yaml")])
