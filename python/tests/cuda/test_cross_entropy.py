# SPDX-License-Identifier: Apache-2.0
"""Cross entropy and its gradients on CUDA, against the CPU operator in fp64."""

import math

import pytest
import torch

# Relative to the largest value. Logits and sums are fp32 for bf16 inputs too; the gradient of
# logits is rounded to bf16 before its products, whose results are rounded as well.
LOSS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5}
GRADIENT = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-3}

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def make_case(tokens, vocabulary, width, dtype, masked):
    hidden = torch.randn(tokens, width).to(dtype)
    weight = torch.randn(vocabulary, width).to(dtype)
    labels = torch.randint(0, vocabulary, (tokens,))
    mask = torch.rand(tokens) if masked else None
    if masked and tokens > 2:
        labels[1] = -100
        mask[2] = 0
    return hidden, weight, labels, mask


def expect_close(got, want, limit):
    assert got.shape == want.shape
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= limit * max(want.abs().max().item(), 1e-30)


def on(device, *tensors):
    return [None if each is None else each.to(device) for each in tensors]


def check(ops, judge, device, case, scale, block):
    hidden, weight, labels, mask = case
    dtype = hidden.dtype
    want = judge.cross_entropy_with_grads(
        hidden.double(), weight.double(), labels, None if mask is None else mask.double(), scale, 0
    )
    arguments = (*on(device, *case), scale, block)
    got = ops.cross_entropy_with_grads(*arguments)
    for i, result in enumerate(got):
        statistics = torch.float64 if dtype == torch.float64 else torch.float32
        assert result.dtype == (statistics if i < 2 else dtype)
        expect_close(result, want[i], (LOSS if i < 2 else GRADIENT)[dtype])
    for first, second in zip(got, ops.cross_entropy_with_grads(*arguments)):
        assert torch.equal(first, second)
    for first, second in zip(got, ops.cross_entropy(*arguments)):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("block", [0, 1, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_losses_and_gradients(ops, judge, device, dtype, tokens, block, masked):
    check(ops, judge, device, make_case(tokens, 101, 24, dtype, masked), 0.7, block)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 2047, 2048, 2049, 5003])
def test_vocabularies(ops, judge, device, dtype, vocabulary):
    """Rows that one pass of the block's threads holds, and longer ones."""
    check(ops, judge, device, make_case(3, vocabulary, 16, dtype, False), 1.0, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(ops, judge, device, dtype):
    hidden, weight, labels, mask = make_case(20, 33, 12, dtype, True)
    hidden = torch.cat([hidden, hidden], 1)[:, 12:]
    weight = weight.t().contiguous().t()
    labels = torch.stack([labels, labels], 1)[:, 0]
    mask = torch.stack([mask, mask], 1)[:, 1]
    check(ops, judge, device, (hidden, weight, labels, mask), -1.3, 8)


def test_large_logits_stay_finite(ops, judge, device):
    case = make_case(9, 40, 16, torch.float32, False)
    hidden, weight, labels, mask = on(device, *case)
    got = ops.cross_entropy_with_grads(hidden, weight, labels, mask, 1e4, 0)
    want = judge.cross_entropy(case[0].double(), case[1].double(), case[2], None, 1e4, 0)
    expect_close(got[0], want[0], 1e-5)
    assert all(each.isfinite().all() for each in got)


@pytest.mark.parametrize("mask_dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_masks_of_any_floating_dtype(ops, judge, device, mask_dtype):
    hidden, weight, labels, mask = make_case(9, 40, 16, torch.float32, True)
    check(ops, judge, device, (hidden, weight, labels, mask.to(mask_dtype)), 1.0, 0)


def test_a_token_that_does_not_count_may_overflow(ops, device):
    hidden, weight, labels, mask = on(device, *make_case(9, 40, 16, torch.float32, True))
    hidden[2] = math.inf
    got = ops.cross_entropy_with_grads(hidden, weight, labels, mask, 1.0, 0)
    assert got[0].isfinite()
    assert not got[1][2].isfinite()
    assert (got[2][[0, 1, 3, 4]]).isfinite().all()


@pytest.mark.parametrize("label", [-1, 40, 1 << 40])
def test_label_out_of_range_gives_nan(ops, device, label):
    hidden, weight, labels, _ = on(device, *make_case(4, 40, 16, torch.float32, False))
    labels[1] = label
    loss, nll, dhidden, _ = ops.cross_entropy_with_grads(hidden, weight, labels, None, 1.0, 0)
    assert loss.isnan() and nll.isnan().tolist() == [False, True, False, False]
    assert dhidden[1].isnan().all() and dhidden[0].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [0, 256])
def test_large(ops, judge, device, emulated, dtype, block):
    if emulated:
        pytest.skip("takes a GPU")
    check(ops, judge, device, make_case(1000, 32001, 256, dtype, True), 1.0, block)


def test_autograd_on_the_device(ops, judge, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    hidden, weight, labels, mask = on(device, *make_case(50, 300, 64, torch.bfloat16, True))
    hidden.requires_grad_()
    weight.requires_grad_()
    loss, _ = ops.cross_entropy(hidden, weight, labels, mask, 1.0, 0)
    loss.backward()
    got = ops.cross_entropy_with_grads(hidden.detach(), weight.detach(), labels, mask, 1.0, 0)
    assert torch.equal(hidden.grad, got[2]) and torch.equal(weight.grad, got[3])
