# SPDX-License-Identifier: Apache-2.0
"""Dropout on CUDA: the same bits as on the CPU."""

import pytest
import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
KEY = -6_148_914_691_236_517_206  # bits in both halves of the key


def check(ops, judge, device, x, first_row, p):
    want = judge.dropout(x, KEY, first_row, p)
    got = ops.dropout(x.to(device), KEY, first_row, p)
    assert got.dtype == x.dtype and got.is_contiguous()
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 6])
@pytest.mark.parametrize("channels", [1, 5, 16, 1023, 1030, 2056])
@pytest.mark.parametrize("first_row", [0, 3])
def test_same_bits(ops, judge, device, dtype, rows, channels, first_row):
    torch.manual_seed(1)
    check(ops, judge, device, torch.randn(rows, channels).to(dtype), first_row, 0.3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [7, 8])
def test_counters_beyond_thirty_two_bits(ops, judge, device, dtype, channels):
    x = torch.ones(4, channels, dtype=dtype)
    for first_row in ((1 << 32) - 2, (1 << 34) - 2, (1 << 50) + 1):
        check(ops, judge, device, x, first_row, 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("before,after", [(0, 8), (8, 8), (1, 3), (0, 1)])
def test_strided_rows(ops, judge, device, dtype, before, after):
    torch.manual_seed(1)
    for channels in (16, 5):
        wide = torch.randn(9, before + channels + after).to(dtype).to(device)
        x = wide[:, before : before + channels]
        got = ops.dropout(x, KEY, 2, 0.4)
        assert torch.equal(got.cpu(), judge.dropout(x.cpu().contiguous(), KEY, 2, 0.4))
    turned = torch.randn(16, 9).to(dtype).to(device).t()
    got = ops.dropout(turned, KEY, 2, 0.4)
    assert torch.equal(got.cpu(), judge.dropout(turned.cpu().contiguous(), KEY, 2, 0.4))


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.5, 1.0 - 2.0**-25])
def test_shares(ops, judge, device, p):
    check(ops, judge, device, torch.randn(20, 64), 0, p)


def test_a_dropped_value_is_zero_whatever_it_was(ops, judge, device):
    x = torch.full((20, 64), torch.inf)
    check(ops, judge, device, x, 0, 0.5)


def test_parts_are_the_part_of_the_whole(ops, device):
    x = torch.randn(40, 33, device=device)
    whole = ops.dropout(x, KEY, 100, 0.2)
    assert torch.equal(ops.dropout(x[13:33], KEY, 113, 0.2), whole[13:33])


def test_refuses_what_does_not_fit(ops, device):
    x = torch.ones(2, 3, device=device)
    for arguments in ((x, KEY, 0, 1.0), (x, KEY, 0, -0.1), (x, KEY, -1, 0.1), (x[0], KEY, 0, 0.1)):
        with pytest.raises(RuntimeError):
            ops.dropout(*arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2047, 2048])
def test_large(ops, judge, device, emulated, dtype, channels):
    if emulated:
        pytest.skip("takes a GPU")
    check(ops, judge, device, torch.randn(5000, channels).to(dtype), 12345, 0.1)


def test_gradient_has_the_mask(ops, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    x = torch.randn(30, 64, device=device, requires_grad=True)
    ops.dropout(x, KEY, 7, 0.3).sum().backward()
    assert torch.equal(x.grad, ops.dropout(torch.ones_like(x), KEY, 7, 0.3))
