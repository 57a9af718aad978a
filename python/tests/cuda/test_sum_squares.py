# SPDX-License-Identifier: Apache-2.0
"""Sums of squares on CUDA, against the CPU operator; both are fp64."""

import math

import pytest
import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16]

# fp64 sums in two orders: some units in the last place, growing with the root of the length.
RELATIVE = 1e-13


def check(ops, judge, device, x):
    want = judge.sum_squares(x.cpu()).item()
    x = x.to(device)
    got = ops.sum_squares(x)
    assert got.shape == () and got.dtype == torch.float64 and got.device == x.device
    assert abs(got.item() - want) <= RELATIVE * want
    assert torch.equal(got, ops.sum_squares(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [0, 1, 3, 7, 8, 9, 255, 2048, 2049, 16383, 16384, 16385, 40003])
def test_lengths(ops, judge, device, dtype, length):
    torch.manual_seed(1)
    check(ops, judge, device, torch.randn(length).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_views(ops, judge, device, dtype):
    torch.manual_seed(1)
    whole = torch.randn(70, 30).to(dtype).to(device)
    for x in (whole.t(), whole[:, 3:20], whole.view(-1)[1:], whole.view(-1)[3:2000], whole[5, 5]):
        check(ops, judge, device, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_finite_exactly_when_every_value_is(ops, device, dtype, bad):
    x = torch.full((3000,), 3e38, device=device, dtype=dtype)
    assert ops.sum_squares(x).isfinite()
    x = torch.ones(3000, device=device, dtype=dtype)
    for place in (0, 1500, 2999):
        x[place] = bad
        assert not ops.sum_squares(x).isfinite()
        x[place] = 1


def test_refuses_other_types(ops, device):
    with pytest.raises(RuntimeError):
        ops.sum_squares(torch.ones(3, dtype=torch.int64, device=device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large(ops, judge, device, emulated, dtype):
    """More than one step of a block."""
    if emulated:
        pytest.skip("takes a GPU")
    check(ops, judge, device, torch.randn(50_000_001).to(dtype))


def test_gradient_is_twice_x(ops, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    x = torch.randn(50, device=device, requires_grad=True)
    (ops.sum_squares(x) * 3).backward()
    assert torch.equal(x.grad, x.detach() * 6)
