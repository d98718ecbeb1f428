"""What only CUDA runs, as far as a CPU can tell: widths for its kernels, packed keys, types of products."""

import pytest
import torch

from nonlocalnn.functional import dot_product, non_local, softmax
from nonlocalnn.functional.softmax import _kernel_widths, _packed_attention, _widened
from tolerances import assert_near

HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("width", "num_values", "device", "dtype", "expected"),
    [
        (256, 256, "cuda", HALF, (256, 256)),
        (256, 128, "cuda", HALF, (256, 256)),
        (30, 61, "cuda", HALF, (64, 64)),
        # No flash kernel is so wide, and none takes float32: padding g would be arithmetic for nothing.
        (512, 256, "cuda", HALF, (512, 256)),
        (512, 256, "cuda", SINGLE, (512, 256)),
        (33, 15, "cuda", SINGLE, (40, 16)),
        (33, 15, "cpu", HALF, (33, 33)),
    ],
)
def test_g_is_padded_for_the_flash_kernel_only(width, num_values, device, dtype, expected):
    assert _kernel_widths(width, num_values, device, dtype) == expected


def test_what_fits_a_kernel_is_not_copied():
    part = torch.randn(2, 5, 8)
    assert _widened(part, 8) is part
    assert _widened(part.mT, 5).is_contiguous()
    wider = _widened(part, 16)
    assert wider.is_contiguous()
    assert torch.equal(wider, torch.cat([part, torch.zeros(2, 5, 8)], 2))


@pytest.mark.parametrize("num_kept", [0, 3, 7])
def test_packed_keys_equal_masked_ones(num_kept):
    theta, phi, g = (torch.randn(2, n, 8, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7))
    mask = torch.arange(7).roll(2) < torch.tensor([[5], [num_kept]])
    masked = g.masked_fill(~mask.unsqueeze(2), 0.0)
    found = _packed_attention(theta, phi, masked, mask, 0.5)
    named = {"instantiation": "embedded_gaussian", "scale": 0.5, "key_mask": mask, "engine": "reference"}
    expected = non_local(theta, phi, g, **named)
    assert_near(found, expected)
    slope = torch.cos(torch.arange(found.numel())).view_as(found).double()
    assert_near(*(torch.autograd.grad(y, (theta, phi, g), slope) for y in (found, expected)))


def test_an_empty_batch_has_no_keys_to_pack():
    theta, g = torch.randn(0, 5, 8), torch.randn(0, 7, 8)
    assert _packed_attention(theta, g, g, torch.ones(0, 7, dtype=torch.bool), 1.0).shape == (0, 5, 8)


def test_halves_are_multiplied_as_they_are_on_cuda_alone(monkeypatch):
    types = [dot_product._product_dtype(device, HALF) for device in ("cuda", "cpu")]
    assert types == [HALF, SINGLE]
    # Its range is too small for the sums.
    assert dot_product._product_dtype("cuda", torch.float16) is SINGLE
    monkeypatch.setattr(dot_product, "_product_dtype", lambda device, dtype: dtype)
    theta, phi, g = (torch.randn(2, n, 8, dtype=HALF) for n in (50, 300, 300))
    found = non_local(theta, phi, g, instantiation="dot_product", engine="fused")
    expected = theta.double() @ (phi.double().mT @ g.double()) / 300
    assert_near(found.double(), expected, dtype=HALF)


def test_a_mask_of_halves_on_the_cpu_equals_the_reference():
    theta, phi, g = (torch.randn(2, n, 6, dtype=HALF) for n in (5, 7, 7))
    mask = torch.arange(7) < torch.tensor([[4], [7]])
    found, expected = (
        non_local(theta, phi, g, instantiation="gaussian", key_mask=mask, engine=engine)
        for engine in ("fused", "reference")
    )
    assert softmax._kernel_widths(6, 6, "cpu", HALF) == (6, 6)
    assert_near(found.double(), expected.double(), dtype=HALF)
