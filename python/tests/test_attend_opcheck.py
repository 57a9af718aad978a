# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own checks of attention and its step, cross_entropy, embedding, products and pages."""

import os
import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("BATON_OPS_LIBRARY", str(ROOT / "build/baton/libbaton_ops.so"))
torch.ops.load_library(LIBRARY)
ops = torch.ops.baton


def starts(*lengths):
    return torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32)


def normal(*sizes, dtype=torch.float32, grad=False):
    return torch.randn(*sizes, dtype=torch.float64).to(dtype).requires_grad_(grad)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "queries, keys", [((5, 0, 3), (5, 0, 3)), ((2, 1, 3), (4, 7, 3)), ((0,), (0,)), ((), ())]
)
def test_attention(dtype, queries, keys):
    q = normal(sum(queries), 4, 8, dtype=dtype, grad=True)
    k = normal(sum(keys), 2, 8, dtype=dtype, grad=True)
    v = normal(sum(keys), 2, 8, dtype=dtype, grad=True)
    torch.library.opcheck(ops.attention.default, (q, k, v, starts(*queries), starts(*keys), 0.3))


def test_attention_backward():
    q, k, v = normal(8, 4, 8), normal(14, 2, 8), normal(14, 2, 8)
    arguments = (starts(5, 0, 3), starts(6, 0, 8), 0.3)
    out, log_sum_exp = ops.attention(q, k, v, *arguments)
    inputs = (normal(8, 4, 8), q, k, v, out, log_sum_exp, *arguments)
    torch.library.opcheck(ops.attention_backward.default, inputs)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("with_mask", [False, True])
def test_cross_entropy(grad, tokens, with_mask):
    hidden = normal(tokens, 6, grad=grad)
    weight = normal(11, 6, grad=grad)
    labels = torch.randint(0, 11, (tokens,))
    labels[:1] = -100
    mask = torch.rand(tokens) if with_mask else None
    torch.library.opcheck(ops.cross_entropy.default, (hidden, weight, labels, mask, 0.5, 3))


def test_cross_entropy_with_grads():
    arguments = (normal(7, 6), normal(11, 6), torch.randint(0, 11, (7,)), None, 1.0, 0)
    torch.library.opcheck(ops.cross_entropy_with_grads.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 9])
@pytest.mark.parametrize("grad", [False, True])
def test_embedding(dtype, tokens, grad):
    weight = normal(7, 5, dtype=dtype, grad=grad)
    ids = torch.randint(0, 7, (tokens,))
    torch.library.opcheck(ops.embedding.default, (weight, ids))
    torch.library.opcheck(ops.embedding_backward.default, (normal(tokens, 5, dtype=dtype), ids, 7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(7, 5), (2, 3, 5), (0, 5), (4, 0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(dtype, sizes, with_bias):
    x = normal(*sizes, dtype=dtype, grad=True)
    weight = normal(6, sizes[-1], dtype=dtype, grad=True)
    bias = normal(6, dtype=dtype, grad=True) if with_bias else None
    torch.library.opcheck(ops.linear.default, (x, weight, bias))


def test_linear_with_only_a_weight_gradient():
    torch.library.opcheck(ops.linear.default, (normal(7, 5), normal(6, 5, grad=True)))


@pytest.mark.parametrize("needed", [(True, True, True), (False, False, True), (False, True, False)])
def test_linear_backward(needed):
    arguments = (normal(2, 3, 6), normal(2, 3, 5), normal(6, 5), *needed)
    torch.library.opcheck(ops.linear_backward.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 8])
def test_matvec(dtype, rows):
    arguments = (normal(rows, 5, dtype=dtype), normal(6, 5, dtype=dtype), normal(6, dtype=dtype))
    torch.library.opcheck(ops.matvec.default, arguments)


def pages(dtype):
    k_pages = normal(6, 4, 2, 8, dtype=dtype)
    v_pages = normal(6, 4, 2, 8, dtype=dtype)
    page_table = torch.tensor([[3, 0, 5], [1, -1, -1], [2, 4, -1]], dtype=torch.int32)
    return k_pages, v_pages, page_table


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_paged_attention(dtype):
    lengths = torch.tensor([9, 0, 5], dtype=torch.int32)
    q = normal(4, 4, 8, dtype=dtype)
    arguments = (q, *pages(dtype), starts(3, 0, 1), lengths, 0.3)
    torch.library.opcheck(ops.paged_attention.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paged_write(dtype):
    positions = torch.tensor([6, 0, 4], dtype=torch.int32)
    k_pages, v_pages, page_table = pages(dtype)
    new = (normal(4, 2, 8), normal(4, 2, 8))
    arguments = (k_pages, v_pages, *new, page_table, starts(3, 0, 1), positions)
    torch.library.opcheck(ops.paged_write_.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_all", [False, True])
def test_attention_step(dtype, with_all):
    def optional(*sizes, dtype=dtype):
        return normal(*sizes, dtype=dtype) if with_all else None

    arguments = (
        normal(3, 6, dtype=dtype),
        normal(6, dtype=dtype),
        normal(32, 6, dtype=dtype),
        optional(32),
        normal(16, 6, dtype=dtype),
        optional(16),
        normal(16, 6, dtype=dtype),
        optional(16),
        optional(8),
        optional(8),
        optional(4, dtype=torch.float32),
        normal(6, 32, dtype=dtype),
        optional(6),
        *pages(dtype),
        torch.tensor([9, 0, 5], dtype=torch.int32),
        0.3,
    )
    torch.library.opcheck(ops.attention_step_.default, arguments, {"scale": 0.5})


def test_in_place_and_inference_operators_refuse_gradients():
    positions = torch.tensor([6, 0, 4], dtype=torch.int32)
    k_pages, v_pages, page_table = pages(torch.float32)
    new = (normal(4, 2, 8, grad=True), normal(4, 2, 8))
    with pytest.raises(RuntimeError, match="no derivative"):
        ops.paged_write_(k_pages, v_pages, *new, page_table, starts(3, 0, 1), positions)
    with pytest.raises(RuntimeError, match="no derivative"):
        ops.paged_attention(
            normal(4, 4, 8, grad=True), k_pages, v_pages, page_table, starts(3, 0, 1), positions, 1.0
        )
