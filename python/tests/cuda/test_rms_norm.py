# SPDX-License-Identifier: Apache-2.0
"""The RMS norm and its gradients on CUDA, alone and behind an addition, against the CPU in fp64."""

import pytest
import torch

# Relative to the largest value: sums of some thousand products in fp32, one rounding to bf16 of the
# result. A mean square of thousands of channels adds up the roundings of partial sums.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 6e-3}
EPS = 1e-5

DTYPES = [torch.float64, torch.float32, torch.bfloat16]

# Activations, weight, and residual stream.
ADDED = [
    (torch.float64, torch.float64, torch.float64),
    (torch.float32, torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.float32, torch.float32),
]

# Channels that go one by one; lanes of a warp; whole warps; teams that are no power of two; two
# packs a thread; more than registers hold, by packs and one by one.
CHANNELS = [1, 3, 8, 31, 64, 260, 2048, 4097, 5000, 8192, 9000, 20000]


def normal(*sizes, dtype):
    return torch.randn(*sizes, dtype=torch.float64).to(dtype)


def fp64(*tensors):
    return [None if each is None else each.double() for each in tensors]


def on(device, *tensors):
    """On the device, where a view of a CPU tensor keeps its strides."""
    results = []
    for each in tensors:
        if each is None or device == "cpu":
            results.append(each)
            continue
        base = torch.as_strided(each, (each.untyped_storage().nbytes() // each.element_size(),),
                                (1,), 0)
        results.append(torch.as_strided(base.to(device), each.shape, each.stride(),
                                        each.storage_offset()))
    return results


def expect_close(got, want, dtype):
    assert got.shape == want.shape and got.dtype == dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())


def expect_equal_bits(compute):
    first = compute()
    for one, other in zip(first, compute()):
        assert torch.equal(one, other)
    return first


def check(ops, judge, device, x, weight, dy):
    want = judge.rms_norm(*fp64(x, weight), EPS)
    there = on(device, x, weight, dy)
    expect_close(ops.rms_norm(*there[:2], EPS), want, x.dtype)
    want = judge.rms_norm_backward(*fp64(dy, x, weight), EPS)
    got = expect_equal_bits(lambda: ops.rms_norm_backward(there[2], *there[:2], EPS))
    expect_close(got[0], want[0], x.dtype)
    expect_close(got[1], want[1], weight.dtype)


def check_added(ops, judge, device, residual, update, weight, dsum, dnormed, scale):
    there = on(device, residual, update, weight, dsum, dnormed)
    total, normed = ops.add_rms_norm(*there[:3], EPS, scale)
    exact = residual.double() + scale * update.double()
    expect_close(total, exact, residual.dtype)
    # The norm is that of the sum as it was rounded.
    rounded = total.cpu().to(update.dtype)
    expect_close(normed, judge.rms_norm(*fp64(rounded, weight), EPS), update.dtype)
    assert torch.equal(normed, ops.rms_norm(total.to(update.dtype), there[2], EPS))

    want = judge.rms_norm_backward(*fp64(dnormed, rounded, weight), EPS)
    dtotal = want[0] + (0 if dsum is None else dsum.double())
    got = expect_equal_bits(
        lambda: ops.add_rms_norm_backward(there[3], there[4], total, there[2], EPS, scale)
    )
    expect_close(got[0], dtotal, residual.dtype)
    if residual.dtype == update.dtype and scale == 1.0:
        assert got[1].shape == (0,) and got[1].dtype == update.dtype
    else:
        expect_close(got[1], scale * dtotal, update.dtype)
    expect_close(got[2], want[1], weight.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_sizes(ops, judge, device, dtype, channels):
    x, dy = normal(3, channels, dtype=dtype), normal(3, channels, dtype=dtype)
    check(ops, judge, device, x, normal(channels, dtype=dtype), dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, channels", [(0, 8), (1, 8), (700, 3), (600, 128), (160, 1024)])
def test_rows_that_share_blocks(ops, judge, device, dtype, rows, channels):
    """Several rows a block, of which some have no row left."""
    x, dy = normal(rows, channels, dtype=dtype), normal(rows, channels, dtype=dtype)
    check(ops, judge, device, x, normal(channels, dtype=dtype), dy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_teams_that_go_through_rows(ops, judge, device, dtype):
    """264 blocks of 512 threads share the rows."""
    channels = 1024 if dtype == torch.float64 else 4096
    x, dy = normal(300, channels, dtype=dtype), normal(300, channels, dtype=dtype)
    check(ops, judge, device, x, normal(channels, dtype=dtype), dy)


@pytest.mark.parametrize("channels", [40, 41, 2048, 8192, 9000])
def test_fp32_weight_beside_bf16(ops, judge, device, channels):
    x, dy = normal(9, channels, dtype=torch.bfloat16), normal(9, channels, dtype=torch.bfloat16)
    check(ops, judge, device, x, normal(channels, dtype=torch.float32), dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [0, 3, 8])
@pytest.mark.parametrize("width", [96, 99])
def test_rows_that_lie_apart_and_begin_anywhere(ops, judge, device, dtype, first, width):
    x = normal(50, width, dtype=dtype)[:, first : first + 48]
    dy = normal(50, width, dtype=dtype)[:, first : first + 48]
    check(ops, judge, device, x, normal(64, dtype=dtype)[first : first + 48], dy)


def test_heads_and_turned_rows(ops, judge, device):
    x, dy = normal(7, 3, 16, dtype=torch.float32), normal(7, 3, 16, dtype=torch.float32)
    check(ops, judge, device, x, normal(16, dtype=torch.float32), dy)
    x, dy = normal(20, 6, dtype=torch.float32).t(), normal(20, 6, dtype=torch.float32).t()
    check(ops, judge, device, x, normal(20, dtype=torch.float32), dy)


def test_keeps_not_a_number(ops, device):
    x = torch.ones(2, 16, device=device)
    x[0, 3] = torch.nan
    y = ops.rms_norm(x, torch.ones(16, device=device), EPS)
    assert y[0].isnan().all() and not y[1].isnan().any()


@pytest.mark.parametrize("dtype, weight_dtype, residual_dtype", ADDED)
@pytest.mark.parametrize(
    "channels, scale", [(8, 1.0), (31, 0.22), (2048, 1.0), (8192, 0.22), (9000, 1.0)]
)
def test_addition(ops, judge, device, dtype, weight_dtype, residual_dtype, channels, scale):
    tensors = [normal(3, channels, dtype=each) for each in (residual_dtype, dtype)]
    weight = normal(channels, dtype=weight_dtype)
    gradients = [normal(3, channels, dtype=each) for each in (residual_dtype, dtype)]
    check_added(ops, judge, device, *tensors, weight, *gradients, scale)
    check_added(ops, judge, device, *tensors, weight, None, gradients[1], scale)


@pytest.mark.parametrize("dtype, weight_dtype, residual_dtype", ADDED)
@pytest.mark.parametrize("rows, channels", [(0, 8), (700, 64), (70, 1024)])
def test_addition_to_rows_that_lie_apart(
    ops, judge, device, dtype, weight_dtype, residual_dtype, rows, channels
):
    def apart(like):
        return normal(rows, channels + 16, dtype=like)[:, 8 : 8 + channels]

    weight = normal(channels, dtype=weight_dtype)
    check_added(ops, judge, device, apart(residual_dtype), apart(dtype), weight,
                apart(residual_dtype), apart(dtype), 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, channels", [(8192, 2048), (2048, 4096), (1024, 8192), (65536, 128)])
def test_large(ops, judge, device, emulated, dtype, rows, channels):
    if emulated:
        pytest.skip("takes a GPU")
    x, dy = normal(rows, channels, dtype=dtype), normal(rows, channels, dtype=dtype)
    weight = normal(channels, dtype=dtype)
    check(ops, judge, device, x, weight, dy)
    check_added(ops, judge, device, x, dy, weight, dy, x, 1.0)


def test_autograd_on_the_device(ops, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    leaves = [normal(*s, dtype=torch.bfloat16).to(device).requires_grad_()
              for s in ((50, 64), (50, 64), (64,))]
    total, normed = ops.add_rms_norm(*leaves, EPS, 1.0)
    (total.float().sum() + 2 * normed.float().sum()).backward()
    ones = torch.ones_like(total)
    want = ops.add_rms_norm_backward(ones, 2 * ones, total.detach(), leaves[2].detach(), EPS, 1.0)
    assert torch.equal(leaves[0].grad, want[0]) and torch.equal(leaves[1].grad, want[0])
    assert torch.equal(leaves[2].grad, want[2])
