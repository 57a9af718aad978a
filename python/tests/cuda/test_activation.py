# SPDX-License-Identifier: Apache-2.0
"""Nonlinearities of the MLP layers on CUDA, against the CPU operators in fp64."""

import math

import pytest
import torch

# Relative to the largest value: some roundings, and one to bf16.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
NAMES = ["squared_relu", "swiglu"]


def normal(*sizes, dtype):
    return (2 * torch.randn(*sizes, dtype=torch.float64)).to(dtype)


def expect_close(got, want, dtype):
    assert got.shape == want.shape and got.dtype == dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())


def check(ops, judge, name, x, dy):
    forward, backward = name, name + "_backward"
    here = x.double().cpu(), dy.double().cpu()
    expect_close(getattr(ops, forward)(x), getattr(judge, forward)(here[0]), x.dtype)
    got = getattr(ops, backward)(dy, x)
    expect_close(got, getattr(judge, backward)(here[1], here[0]), x.dtype)
    assert torch.equal(got, getattr(ops, backward)(dy, x))


def output_channels(name, channels):
    return channels // 2 if name == "swiglu" else channels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sizes",
    [(0, 8), (5, 0), (1, 2), (7, 6), (3, 62), (300, 16), (2, 3, 64), (5, 2048), (3, 22528), (64,)],
)
def test_sizes(ops, judge, device, dtype, name, sizes):
    x = normal(*sizes, dtype=dtype).to(device)
    dy = normal(*sizes[:-1], output_channels(name, sizes[-1]), dtype=dtype).to(device)
    check(ops, judge, name, x, dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first, width", [(8, 64), (3, 64), (0, 53), (1, 49)])
def test_rows_that_lie_apart_and_begin_anywhere(ops, judge, device, dtype, name, first, width):
    channels = output_channels(name, 48)
    x = normal(40, width, dtype=dtype).to(device)[:, first : first + 48]
    dy = normal(40, width, dtype=dtype).to(device)[:, first : first + channels]
    check(ops, judge, name, x, dy)
    check(ops, judge, name, x.contiguous(), dy)
    check(ops, judge, name, x, dy.contiguous())


@pytest.mark.parametrize("name", NAMES)
def test_turned_rows(ops, judge, device, name):
    x = normal(16, 6, dtype=torch.float32).to(device).t()
    dy = normal(output_channels(name, 16), 6, dtype=torch.float32).to(device).t()
    check(ops, judge, name, x, dy)


def test_scalar(ops, judge, device):
    x = torch.tensor(1.5, device=device)
    check(ops, judge, "squared_relu", x, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_not_a_number(ops, device, dtype):
    x = torch.ones(16, dtype=dtype, device=device)
    x[3] = math.nan
    for result in (ops.squared_relu(x), ops.squared_relu_backward(torch.ones_like(x), x)):
        assert result.isnan().nonzero().flatten().tolist() == [3]
    assert ops.swiglu(x).isnan().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_gates_stay_finite(ops, device, dtype):
    gate = torch.linspace(-300, 300, 64, device=device).to(dtype)
    x = torch.cat([gate, torch.ones_like(gate)])
    assert ops.swiglu(x).isfinite().all()
    assert ops.swiglu_backward(torch.ones_like(gate), x).isfinite().all()


def test_refuses_what_does_not_fit(ops, device):
    x = torch.ones(4, 6, device=device)
    with pytest.raises(RuntimeError):
        ops.swiglu(x[:, :5])
    with pytest.raises(RuntimeError):
        ops.swiglu_backward(x, x)
    with pytest.raises(RuntimeError):
        ops.swiglu_backward(x[:2, :3], x)
    with pytest.raises(RuntimeError):
        ops.squared_relu_backward(x[:, :5], x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_large(ops, judge, device, emulated, dtype, name):
    if emulated:
        pytest.skip("takes a GPU")
    x = normal(2048, 22528, dtype=dtype).to(device)
    dy = normal(2048, output_channels(name, 22528), dtype=dtype).to(device)
    check(ops, judge, name, x, dy)


@pytest.mark.parametrize("name", NAMES)
def test_autograd_on_the_device(ops, device, emulated, name):
    if emulated:
        pytest.skip("the emulator has no autograd")
    x = normal(50, 64, dtype=torch.bfloat16).to(device).requires_grad_()
    y = getattr(ops, name)(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert torch.equal(x.grad, getattr(ops, name + "_backward")(dy, x.detach()))
