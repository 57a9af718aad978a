# SPDX-License-Identifier: Apache-2.0
"""The linear map and its gradients on CUDA, against the CPU operator in fp64."""

import pytest
import torch

# Relative to the largest value: sums of some hundred products, and one rounding to bf16.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 4e-3}


def expect_close(got, want, dtype):
    assert got.shape == want.shape and got.dtype == dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())


def check(ops, judge, device, x, weight, bias, dy):
    given = [None if each is None else each.to(device) for each in (x, weight, bias, dy)]
    wide = [None if each is None else each.double() for each in (x, weight, bias, dy)]
    expect_close(ops.linear(*given[:3]), judge.linear(*wide[:3]), x.dtype)
    needs = (True, True, bias is not None)
    got = ops.linear_backward(given[3], *given[:2], *needs)
    for result, want, needed in zip(got, judge.linear_backward(wide[3], *wide[:2]), needs):
        expect_close(result, want if needed else torch.empty(0), x.dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("sizes", [(7, 5), (2, 3, 5), (0, 5), (4, 0), (1, 130), (65, 200)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(ops, judge, device, dtype, sizes, with_bias):
    x = torch.randn(*sizes).to(dtype)
    weight = torch.randn(6, sizes[-1]).to(dtype)
    bias = torch.randn(6).to(dtype) if with_bias else None
    check(ops, judge, device, x, weight, bias, torch.randn(*sizes[:-1], 6).to(dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_strided_inputs(ops, judge, device, dtype):
    x = torch.randn(9, 40).to(dtype)[:, 3:27]
    weight = torch.randn(24, 10).to(dtype).t()
    dy = torch.randn(10, 9).to(dtype).t()
    check(ops, judge, device, x, weight, torch.randn(10).to(dtype), dy)


def test_only_what_is_needed(ops, device):
    x, weight, dy = (torch.randn(*sizes).to(device) for sizes in ((7, 5), (6, 5), (7, 6)))
    for needs in ((True, False, False), (False, True, False), (False, False, True)):
        got = ops.linear_backward(dy, x, weight, *needs)
        assert [each.numel() > 0 for each in got] == list(needs)


def test_refuses_what_does_not_fit(ops, device):
    x = torch.randn(7, 5).to(device)
    with pytest.raises(RuntimeError, match="linear takes x"):
        ops.linear(x, torch.randn(6, 4).to(device), None)
    with pytest.raises(RuntimeError, match="one dtype"):
        ops.linear(x, torch.randn(6, 5).double().to(device), None)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_large(ops, judge, device, emulated, dtype):
    if emulated:
        pytest.skip("takes a GPU")
    x, weight, dy = (
        torch.randn(*sizes).to(dtype) for sizes in ((1000, 512), (768, 512), (1000, 768))
    )
    check(ops, judge, device, x, weight, torch.randn(768).to(dtype), dy)


def test_few_rows_take_no_cpu_kernel(ops, judge, device, emulated):
    """The CPU's own way for a few rows must not be chosen for tensors of a GPU."""
    if emulated:
        pytest.skip("takes a GPU")
    x, weight = torch.randn(2, 64), torch.randn(32, 64)
    expect_close(
        ops.linear(x.to(device), weight.to(device), None),
        judge.linear(x.double(), weight.double(), None),
        torch.float32,
    )
    with pytest.raises(NotImplementedError):
        ops.matvec(x.to(device), weight.to(device), None)
