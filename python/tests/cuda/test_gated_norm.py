# SPDX-License-Identifier: Apache-2.0
"""The gate and grouped norm behind a scan on CUDA, against the CPU operator in fp64."""

import pytest
import torch

# Relative to the largest value: sums of some thousand products in fp32, one rounding to bf16 of the
# result.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 6e-3}
EPS = 1e-5

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def normal(*sizes, dtype):
    return torch.randn(*sizes, dtype=torch.float64).to(dtype)


def fp64(*tensors):
    return [None if each is None else each.double() for each in tensors]


def expect_close(got, want, dtype):
    assert got.shape == want.shape and got.dtype == dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())


def views(rows, channels, dtype, device, first=0, gap=0):
    """dout, y and z as slices of wider rows, the latter two of the same ones."""
    wide = normal(rows, 2 * channels + first + gap, dtype=dtype).to(device)
    dout = normal(rows, channels + gap, dtype=dtype).to(device)[:, :channels]
    return dout, wide[:, first + channels : first + 2 * channels], wide[:, first : first + channels]


def check(ops, judge, tensors, weight, group, gate_first):
    dout, y, z = tensors
    dtype = y.dtype
    here = fp64(*(None if each is None else each.cpu() for each in (dout, y, z, weight)))
    config = (EPS, group, gate_first)
    expect_close(ops.gated_norm(y, z, weight, *config), judge.gated_norm(*here[1:], *config), dtype)
    got = ops.gated_norm_backward(dout, y, z, weight, *config)
    want = judge.gated_norm_backward(*here, *config)
    expect_close(got[0], want[0], dtype)
    expect_close(got[1], want[1], dtype)
    expect_close(got[2], want[2], dtype if weight is None else weight.dtype)
    for first, second in zip(got, ops.gated_norm_backward(dout, y, z, weight, *config)):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize(
    "channels, group",
    [
        (512, 64),  # lanes of a warp
        (2048, 512),  # two warps a group in bf16
        (960, 320),  # five groups, lanes that have nothing
        (1024, 1024),
        (8192, 8192),  # two packs a thread
        (9000, 9000),  # more than registers hold
        (18000, 9000),
        (12, 1),  # channels that go one by one
        (12, 4),
        (93, 31),
        (4100, 4100),
    ],
)
def test_groups(ops, judge, device, dtype, gate_first, channels, group):
    weight = normal(channels, dtype=dtype).to(device)
    check(ops, judge, views(3, channels, dtype, device), weight, group, gate_first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "rows, channels, group", [(0, 8, 4), (1, 16, 16), (700, 48, 16), (300, 256, 64)]
)
def test_rows_that_share_blocks(ops, judge, device, dtype, rows, channels, group):
    """Several rows a block, of which some have no row left."""
    weight = normal(channels, dtype=dtype).to(device)
    check(ops, judge, views(rows, channels, dtype, device), weight, group, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_teams_that_go_through_rows(ops, judge, device, dtype):
    """264 blocks of 512 threads share the rows."""
    weight = normal(4096, dtype=dtype).to(device)
    check(ops, judge, views(300, 4096, dtype, device), weight, 4096, True)


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize(
    "channels, group", [(64, 16), (2048, 512), (8192, 8192), (9000, 9000), (93, 31)]
)
def test_fp32_weight_beside_bf16(ops, judge, device, gate_first, channels, group):
    weight = normal(channels, dtype=torch.float32).to(device)
    check(ops, judge, views(9, channels, torch.bfloat16, device), weight, group, gate_first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first, gap", [(8, 16), (3, 0), (0, 5)])
@pytest.mark.parametrize("with_weight", [True, False])
def test_rows_that_lie_apart_and_begin_anywhere(
    ops, judge, device, dtype, first, gap, with_weight
):
    weight = normal(48, dtype=dtype).to(device) if with_weight else None
    check(ops, judge, views(30, 48, dtype, device, first, gap), weight, 16, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, channels", [(0, 8), (1, 1), (3, 31), (5, 4096), (700, 24)])
def test_without_a_weight(ops, judge, device, dtype, rows, channels):
    check(ops, judge, views(rows, channels, dtype, device), None, 0, True)


def test_several_dims(ops, judge, device):
    dout, y, z = (normal(4, 3, 16, dtype=torch.float32).to(device) for _ in range(3))
    check(ops, judge, (dout, y, z), normal(16, dtype=torch.float32).to(device), 8, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate_first", [True, False])
def test_wide_gates_stay_finite(ops, device, dtype, gate_first):
    z = torch.linspace(-300, 300, 64, device=device).to(dtype).reshape(1, 64)
    y, weight = torch.ones_like(z), torch.ones(64, device=device).to(dtype)
    results = [ops.gated_norm(y, z, weight, EPS, 64, gate_first),
               *ops.gated_norm_backward(y, y, z, weight, EPS, 64, gate_first),
               ops.gated_norm(y, z, None, EPS, 0, True),
               *ops.gated_norm_backward(y, y, z, None, EPS, 0, True)]
    assert all(each.isfinite().all() for each in results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize(
    "rows, channels, group", [(8192, 4096, 512), (2048, 4096, 4096), (1024, 8192, 8192)]
)
def test_large(ops, judge, device, emulated, dtype, gate_first, rows, channels, group):
    if emulated:
        pytest.skip("takes a GPU")
    tensors = views(rows, channels, dtype, device, 0, 1088)
    check(ops, judge, tensors, normal(channels, dtype=dtype).to(device), group, gate_first)
    if group == channels:
        check(ops, judge, tensors, None, 0, True)


def test_autograd_on_the_device(ops, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    y, z = (normal(50, 64, dtype=torch.bfloat16).to(device).requires_grad_() for _ in range(2))
    weight = normal(64, dtype=torch.float32).to(device).requires_grad_()
    out = ops.gated_norm(y, z, weight, EPS, 32, True)
    dout = torch.randn_like(out)
    out.backward(dout)
    want = ops.gated_norm_backward(dout, y.detach(), z.detach(), weight.detach(), EPS, 32, True)
    for leaf, gradient in zip((y, z, weight), want):
        assert torch.equal(leaf.grad, gradient)
