"""Two pairwise functions have the same keys: where a file's name or texts say which, nothing is guessed."""

import pytest
import torch

import nonlocalnn as nl
from alexhex7 import randomized
from foreign_video_networks import MMAction2, SlowFast
from nonlocalnn.checkpoints import import_checkpoint, read_metadata
from nonlocalnn.checkpoints.kinds import kind_named, kind_written
from nonlocalnn.cli import main

SMALL = {"blocks": {3: (0,)}, "lengths": (1, 1, 1, 1), "width": 2}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("i3d_nl_dot_product_r50_8x8.pth", "dot_product"),
        ("NL-Dot-Product.pth", "dot_product"),
        ("nl_dotproduct_r50.pth", "dot_product"),
        ("nlDotProduct.pth", "dot_product"),
        ("r50_EmbeddedGaussian_8x8.pth", "embedded_gaussian"),
        ("tsm_nl_embedded_gaussian_r50.pth", "embedded_gaussian"),
        ("tsm_nl_embed_gauss.pth", "embedded_gaussian"),
        ("tsm_nl_gaussian_r50.pth", "gaussian"),
        ("nl_softmax.pyth", "embedded_gaussian"),
        ("concatenation.pth", "concatenation"),
        ("concat_8x8.pth", "concatenation"),
        ("i3d_nonlocal_8x8.pth", None),
        ("dots.pth", None),
        ("concatenated_sets.pth", "concatenation"),
        ("embeddings.pth", None),
    ],
)
def test_names(name, kind):
    assert kind_named(name) == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"cfg": "NONLOCAL:\n  INSTANTIATION: dot_product\n"}, "dot_product"),
        ({"cfg": "NONLOCAL:\n  INSTANTIATION: softmax\n"}, "embedded_gaussian"),
        ({"meta": {"config": "non_local_cfg=dict(sub_sample=True, mode='dot_product')"}}, "dot_product"),
        ({"meta": {"cfg": "dict(mode='train')"}}, None),
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, None),
        ([1], None),
    ],
)
def test_texts(content, kind):
    assert kind_written(content) == kind


def alexhex7(path):
    torch.save(randomized("dot_product").state_dict(), path)
    return path


def mmaction2(path, **beside):
    torch.manual_seed(0)
    torch.save({"meta": {}, "state_dict": MMAction2(kind="dot_product", **SMALL).state, **beside}, path)
    return path


def slowfast(path, **beside):
    torch.manual_seed(0)
    torch.save({"model_state": SlowFast(kind="dot_product", **SMALL).state, **beside}, path)
    return path


def kinds_in(model):
    return {block.instantiation for block in model.modules() if isinstance(block, nl.NonLocalNd)}


@pytest.mark.parametrize("write", [alexhex7, mmaction2, slowfast])
@pytest.mark.parametrize("named", ["dot_product", "gaussian", "concat"])
def test_a_name_that_says_another_kind_is_asked_about(tmp_path, write, named):
    path = write(tmp_path / f"nl_{named}_8x8.pth")
    with pytest.raises(nl.CheckpointError, match=r"convert --instantiation dot_product\) or the other$"):
        nl.load_checkpoint(path)
    for kind in ("dot_product", "embedded_gaussian"):
        assert kinds_in(nl.load_checkpoint(path, instantiation=kind)) == {kind}
    assert kinds_in(import_checkpoint(path, dot_product=True).model) == {"dot_product"}
    with pytest.raises(nl.CheckpointError, match="blocks of the kind 'embedded_gaussian', not 'gaussian'"):
        nl.load_checkpoint(path, instantiation="gaussian")


@pytest.mark.parametrize("named", ["embedded_gaussian", "softmax", "weights"])
def test_a_name_that_says_nothing_else_is_not_asked_about(tmp_path, named):
    assert kinds_in(nl.load_checkpoint(mmaction2(tmp_path / f"nl_{named}_8x8.pth"))) == {"embedded_gaussian"}


def test_a_configuration_inside_says_it_too(tmp_path):
    path = slowfast(tmp_path / "x.pyth", cfg="NONLOCAL:\n  INSTANTIATION: dot_product\n")
    with pytest.raises(nl.CheckpointError, match="says 'dot_product' by its name or its configuration"):
        nl.load_checkpoint(path)
    path = mmaction2(tmp_path / "x.pth", message_hub={"cfg": "mode='dot_product'"})
    with pytest.raises(nl.CheckpointError, match="says 'dot_product' by its name or its configuration"):
        nl.load_checkpoint(path)
    path = slowfast(tmp_path / "y.pyth", cfg="NONLOCAL:\n  INSTANTIATION: softmax\n")
    assert kinds_in(nl.load_checkpoint(path)) == {"embedded_gaussian"}


def test_networks_whose_keys_tell_are_not_asked_about(tmp_path):
    torch.manual_seed(0)
    without = {key: value for key, value in SMALL.items() if key != "blocks"}
    torch.save({"model_state": SlowFast(blocks={}, **without).state}, tmp_path / "no_dot_product.pyth")
    assert kinds_in(nl.load_checkpoint(tmp_path / "no_dot_product.pyth")) == set()
    torch.save({"state_dict": MMAction2(kind="gaussian", **SMALL).state}, tmp_path / "dot_product.pth")
    assert kinds_in(nl.load_checkpoint(tmp_path / "dot_product.pth")) == {"gaussian"}
    torch.save(randomized("concatenation").state_dict(), tmp_path / "dot_product_too.pth")
    assert kinds_in(nl.load_checkpoint(tmp_path / "dot_product_too.pth")) == {"concatenation"}


def test_a_model_of_the_other_kind_is_filled_with_a_warning(tmp_path):
    path = alexhex7(tmp_path / "dot_product.pth")
    with pytest.warns(
        UserWarning, match="the model's blocks are 'embedded_gaussian': both have the same keys"
    ):
        nl.load_checkpoint(path, nl.create_model("nl_digits"))
    nl.load_checkpoint(path, nl.create_model("nl_digits", instantiation="dot_product"))
    with pytest.raises(ValueError, match="clip and instantiation choose a model: leave them out"):
        nl.load_checkpoint(path, nl.create_model("nl_digits"), instantiation="dot_product")
    with pytest.raises(ValueError, match="instantiation must be one of 'gaussian'"):
        nl.load_checkpoint(path, instantiation="dot")


@pytest.mark.parametrize(
    "flag", [["--instantiation", "dot_product"], ["--dot-product"]], ids=lambda flag: flag[0]
)
def test_convert(tmp_path, capsys, flag):
    path = alexhex7(tmp_path / "dot_product.pth")
    assert main(["convert", str(path), str(tmp_path / "a.safetensors")]) == 1
    assert "--instantiation dot_product" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "a.safetensors"), *flag]) == 0
    assert kinds_in(nl.load_checkpoint(tmp_path / "a.safetensors")) == {"dot_product"}
    assert read_metadata(tmp_path / "a.safetensors")["classes"]


def test_convert_takes_the_entry_that_is_asked_for(tmp_path, capsys):
    averages = randomized("concatenation").state_dict()
    content = {"model": randomized("gaussian").state_dict(), "ema": averages}
    torch.save(content, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--entry", "ema"]) == 0
    assert kinds_in(nl.load_checkpoint(tmp_path / "b.safetensors")) == {"concatenation"}
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "c.safetensors"), "--entry", "emma"]) == 1
    assert "has no entry 'emma'; tensors lie under 'model', 'ema'" in capsys.readouterr().err
