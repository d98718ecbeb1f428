import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baselines
from benchmarks.floor import bare_products, products
from helpers import BLOCKS, SIDES, SUB_SAMPLES, randomize_
from nonlocalnn import NonLocal2d, NonLocal3d
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

CHANNELS = 6
every_form = pytest.mark.parametrize("form", INSTANTIATIONS)
every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
every_sub_sample = pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
CANDIDATES = {
    "materialised": baselines.MaterialisedBlock,
    "repeat": lambda block: baselines.MaterialisedBlock(block, "repeat"),
    "sdpa": baselines.PlainAttentionBlock,
    "reference": baselines.ReferenceBlock,
}


def make(form, rank, sub_sample, **settings):
    block = BLOCKS[rank](CHANNELS, instantiation=form, sub_sample=sub_sample, **settings)
    return randomize_(block).double(), torch.randn(2, CHANNELS, *SIDES[rank], dtype=torch.float64)


def outcome(module, block, x):
    """The output and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    z = module(x)
    z.backward(torch.cos(torch.arange(z.numel())).view_as(z).to(z))
    return [z.detach(), x.grad, *(parameter.grad.clone() for parameter in block.parameters())]


def assert_equal_to_ours(candidate, block, x):
    assert_near(outcome(candidate, block, x), outcome(block, block, x))


@every_form
@every_rank
@every_sub_sample
@pytest.mark.parametrize("name", CANDIDATES)
def test_a_baseline_equals_our_block(name, form, rank, sub_sample):
    if name == "sdpa" and "gaussian" not in form:
        pytest.skip("no softmax")
    block, x = make(form, rank, sub_sample)
    assert_equal_to_ours(CANDIDATES[name](block), block, x)


@pytest.mark.parametrize("name", ["materialised", "sdpa", "reference"])
def test_a_baseline_scales(name):
    block, x = make("embedded_gaussian", 2, "after", use_scale=True)
    assert_equal_to_ours(CANDIDATES[name](block), block, x)


def test_the_reference_goes_by_parts(monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK_NUMBERS", 100)
    block, x = make("concatenation", 2, None)
    assert_equal_to_ours(baselines.ReferenceBlock(block), block, x)


def test_a_baseline_has_no_groups():
    with pytest.raises(ValueError, match="extent='spacetime' only"):
        baselines.MaterialisedBlock(NonLocal3d(4, extent="space"))


def test_pairs_are_known():
    with pytest.raises(ValueError, match="pairs must be one of"):
        baselines.MaterialisedBlock(NonLocal2d(4), "repeated")


@every_form
@every_rank
@pytest.mark.parametrize("sub_sample", ["after", None])
@pytest.mark.parametrize("norm", ["batch", None])
def test_mmcv_equals_our_block(form, rank, sub_sample, norm):
    pytest.importorskip("mmcv")
    block, x = make(form, rank, sub_sample, norm=norm)
    theirs = baselines.mmcv_block(block)
    if form != "concatenation":
        assert_equal_to_ours(theirs, block, x)
        return
    # Its backward pass fails in PyTorch: it divides in place what its ReLU has kept.
    with torch.no_grad():
        assert_near(theirs(x), block(x))


def test_timm_equals_our_block():
    pytest.importorskip("timm")
    block, x = make("embedded_gaussian", 2, None)
    assert_equal_to_ours(baselines.timm_block(block), block, x)


def test_libraries_refuse_what_they_do_not_have():
    with pytest.raises(ValueError, match="timm has"):
        baselines.timm_block(NonLocal2d(4))
    with pytest.raises(ValueError, match="mmcv is compared"):
        baselines.mmcv_block(NonLocal2d(4, sub_sample="before"))
    with pytest.raises(ValueError, match="mmcv cannot make"):
        baselines.mmcv_block(NonLocal2d(7, inter_channels=5))


@pytest.mark.parametrize("library", ["timm", "mmcv"])
def test_a_missing_library_is_named_with_its_extra(library, monkeypatch):
    for name in (library, "timm.layers.non_local_attn", "mmcv.cnn"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    build = {"timm": baselines.timm_block, "mmcv": baselines.mmcv_block}[library]
    with pytest.raises(ImportError, match=r"nonlocalnn\[bench\]"):
        build(NonLocal2d(4, sub_sample=None))


@pytest.mark.parametrize("form", ["gaussian", "embedded_gaussian"])
@every_rank
@every_sub_sample
def test_the_floor_counts_what_a_plain_block_multiplies(form, rank, sub_sample):
    block, x = make(form, rank, sub_sample)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        baselines.MaterialisedBlock(block)(x)
    assert sum(product.flops for product in products(block, x.shape)) == counted.get_total_flops()


@every_form
@pytest.mark.parametrize("backward", [False, True])
def test_the_floor_multiplies_what_it_counts(form, backward, monkeypatch):
    monkeypatch.setattr("benchmarks.floor._PART_NUMBERS", 200)
    block, x = make(form, 2, "after")
    work = bare_products(block, x.shape, backward=backward, device="cpu", dtype=torch.float32)
    with FlopCounterMode(display=False) as counted:
        work()
    expected = sum(product.flops for product in products(block, x.shape)) * (3 if backward else 1)
    assert counted.get_total_flops() == expected


def test_the_floor_of_dot_products_grows_linearly():
    def flops(side):
        block = NonLocal2d(8, instantiation="dot_product", sub_sample=None)
        return sum(product.flops for product in products(block, (1, 8, side, side)))

    assert flops(32) == 16 * flops(8)
