# SPDX-License-Identifier: Apache-2.0
"""Rotary positions on CUDA, against the CPU operator in fp64."""

import pytest
import torch

# Relative to the largest value: cosines and sines of an angle that was rounded to fp32 near zero,
# and one rounding to bf16.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def normal(*sizes, dtype):
    return torch.randn(*sizes, dtype=torch.float64).to(dtype)


def expect_close(got, want, dtype):
    assert got.shape == want.shape and got.dtype == dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())


def check(ops, judge, device, x, positions, frequencies, factor, interleaved):
    """x lies on the device, the rest on the CPU."""
    want = judge.rotary(x.double().cpu(), positions, frequencies, factor, interleaved)
    arguments = (x, positions.to(device), frequencies.to(device), factor, interleaved)
    got = ops.rotary(*arguments)
    expect_close(got, want, x.dtype)
    assert torch.equal(got, ops.rotary(*arguments))
    pairs = frequencies.numel()
    assert torch.equal(got[..., 2 * pairs :], x[..., 2 * pairs :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("tokens, heads", [(0, 2), (1, 1), (5, 3), (70, 16)])
@pytest.mark.parametrize(
    "head_dim, fraction", [(64, 1.0), (64, 0.5), (10, 0.8), (7, 0.5), (128, 0.25)]
)
def test_sizes(ops, judge, device, dtype, interleaved, tokens, heads, head_dim, fraction):
    x = normal(tokens, heads, head_dim, dtype=dtype).to(device)
    frequencies, _ = judge.rotary_frequencies(head_dim, fraction=fraction)
    positions = torch.arange(tokens) * 37 + 5
    check(ops, judge, device, x, positions, frequencies, 1.0, interleaved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_distant_positions(ops, judge, device, dtype):
    """Where an fp32 angle would be off by whole turns."""
    positions = torch.tensor([0, 1, -3, 1 << 17, 999_999, 123_456_789, 1 << 31, (1 << 33) + 7])
    x = normal(len(positions), 2, 32, dtype=dtype).to(device)
    frequencies, _ = judge.rotary_frequencies(32, base=5e5)
    check(ops, judge, device, x, positions, frequencies, 1.0, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frequency_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_frequencies_of_any_floating_dtype(ops, judge, device, dtype, frequency_dtype):
    x = normal(9, 2, 32, dtype=dtype).to(device)
    frequencies = torch.rand(16, dtype=torch.float64).to(frequency_dtype)
    check(ops, judge, device, x, torch.arange(9) * 1000, frequencies, 1.3, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("first", [0, 8, 3])
def test_heads_that_lie_apart_and_begin_anywhere(ops, judge, device, dtype, interleaved, first):
    """A slice of a wider projection."""
    x = normal(12, 5 * 32 + 16, dtype=dtype).to(device)[:, first : first + 96].unflatten(1, (3, 32))
    frequencies, factor = judge.rotary_frequencies(32, scaling="yarn", factor=8.0)
    check(ops, judge, device, x, torch.arange(12), frequencies, factor, interleaved)


def test_turned_heads(ops, judge, device):
    frequencies, _ = judge.rotary_frequencies(16)
    x = normal(3, 5, 16, dtype=torch.float32).to(device)
    check(ops, judge, device, x.transpose(0, 1), torch.arange(5), frequencies, 1.0, False)
    x = normal(5, 16, 3, dtype=torch.float32).to(device)
    check(ops, judge, device, x.transpose(1, 2), torch.arange(5), frequencies, 1.0, False)
    positions = torch.arange(10)[::2]
    check(ops, judge, device, normal(5, 3, 16, dtype=torch.float32).to(device), positions,
          frequencies, 1.0, True)


def test_no_frequencies_copy(ops, judge, device):
    x = normal(5, 3, 16, dtype=torch.bfloat16).to(device)
    check(ops, judge, device, x, torch.arange(5), torch.empty(0), 1.0, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("tokens, heads", [(8192, 16), (40000, 2)])
def test_large(ops, judge, device, emulated, dtype, interleaved, tokens, heads):
    if emulated:
        pytest.skip("takes a GPU")
    x = normal(tokens, heads, 128, dtype=dtype).to(device)
    frequencies, _ = judge.rotary_frequencies(128)
    positions = torch.randint(0, 1 << 20, (tokens,))
    check(ops, judge, device, x, positions, frequencies, 1.0, interleaved)


@pytest.mark.parametrize("interleaved", [False, True])
def test_autograd_on_the_device(ops, judge, device, emulated, interleaved):
    if emulated:
        pytest.skip("the emulator has no autograd")
    x = normal(50, 4, 64, dtype=torch.bfloat16).to(device).requires_grad_()
    frequencies, _ = judge.rotary_frequencies(64)
    positions = torch.arange(50, device=device)
    y = ops.rotary(x, positions, frequencies.to(device), 1.0, interleaved)
    dy = torch.randn_like(y)
    y.backward(dy)
    back = ops.rotary(dy, positions, -frequencies.to(device), 1.0, interleaved)
    assert torch.equal(x.grad, back)
