# SPDX-License-Identifier: Apache-2.0
"""The embedding's gradient on CUDA, against the formula in fp64."""

import pytest
import torch

# Relative to the largest value: sums of some hundred values, and one rounding to bf16.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3}


def check(ops, device, dout, tokens, vocabulary):
    got = ops.embedding_backward(dout.to(device), tokens.to(device), vocabulary)
    want = torch.zeros(vocabulary, dout.shape[1], dtype=torch.float64)
    want.index_add_(0, tokens, dout.double())
    assert got.shape == want.shape and got.dtype == dout.dtype
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= TOLERANCE[dout.dtype] * max(1.0, want.abs().max().item())
    again = ops.embedding_backward(dout.to(device), tokens.to(device), vocabulary)
    assert torch.equal(got, again)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("tokens", [0, 1, 2, 31, 32, 33, 64, 300])
@pytest.mark.parametrize("vocabulary", [1, 3, 50])
@pytest.mark.parametrize("width", [5, 16])
def test_gradient(ops, device, dtype, tokens, vocabulary, width):
    dout = torch.randn(tokens, width).to(dtype)
    check(ops, device, dout, torch.randint(0, vocabulary, (tokens,)), vocabulary)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("lengths", [(32, 32), (31, 65, 1), (1, 200, 31), (64, 10, 64), (16, 16)])
def test_runs_that_end_anywhere(ops, device, dtype, lengths):
    """Ids whose tokens fill chunks of the kernel exactly, nearly, and several of them."""
    tokens = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    tokens = tokens[torch.randperm(len(tokens))]
    check(ops, device, torch.randn(len(tokens), 2056).to(dtype), tokens, len(lengths) + 1)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rows_that_lie_apart(ops, device, dtype):
    dout = torch.randn(40, 100).to(dtype)
    tokens = torch.randint(0, 9, (40,))
    for first in (0, 3, 8):
        check(ops, device, dout[:, first : first + 48], tokens, 9)
    check(ops, device, dout[:1].expand(40, 100), tokens, 9)
    check(ops, device, torch.randn(100, 40).to(dtype).t(), tokens, 9)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_forward(ops, device, dtype):
    weight = torch.randn(9, 12).to(dtype)
    tokens = torch.randint(0, 9, (20,))
    assert torch.equal(ops.embedding(weight.to(device), tokens.to(device)).cpu(), weight[tokens])


def test_ids_out_of_range_are_left_out(ops, device):
    tokens = torch.tensor([0, 3, -1, 2, 3, 7], device=device)
    dout = torch.ones(6, 4, device=device)
    got = ops.embedding_backward(dout, tokens, 3)
    assert got[:, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_large(ops, device, emulated, dtype):
    if emulated:
        pytest.skip("takes a GPU")
    tokens = torch.randint(0, 32000, (16384,))
    tokens[5000:12000] = 17  # as a padding sequence has
    dout = torch.randn(16384, 2048)
    dout[tokens == 17] *= 0.01
    check(ops, device, dout.to(dtype), tokens, 32000)
