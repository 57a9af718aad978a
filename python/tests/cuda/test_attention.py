# SPDX-License-Identifier: Apache-2.0
"""Packed attention and its gradients by ATen's kernels on a GPU, against the CPU operator in fp64."""

import pytest
import torch

# Relative to the largest value. fp32 products are three of TF32, which leave 2^-21 or so; bf16 rounds
# probabilities, their gradients, and results by 2^-9 each, and in the gradients of keys the sum over
# query heads starts from rounded terms.
OUT = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
GRADIENT = {torch.float32: 3e-5, torch.bfloat16: 2e-2}
LOG_SUM_EXP = 1e-4  # of scores near 10, from products as above

DTYPES = [torch.float32, torch.bfloat16]
SCALE = 0.3


@pytest.fixture(autouse=True)
def gpu(emulated):
    if emulated:
        pytest.skip("ATen's attention kernels take a GPU")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def starts_of(lengths):
    return torch.tensor(
        [sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32
    )


def expect_close(got, want, limit):
    assert got.shape == want.shape
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= limit * max(1.0, want.abs().max().item())


def make_inputs(queries, keys, heads, key_heads, channels, dtype):
    """Views into a joint projection of queries, and one of keys and values."""
    q = torch.randn(sum(queries), 2 * heads, channels).to(dtype)[:, heads:]
    kv = torch.randn(sum(keys), 2, key_heads, channels).to(dtype)
    return q, kv[:, 0], kv[:, 1]


def judged(judge, inputs, queries, keys):
    wide = [each.double() for each in inputs]
    starts = (starts_of(queries), starts_of(keys))
    out, log_sum_exp = judge.attention(*wide[:3], *starts, SCALE)
    gradients = ()
    if len(wide) > 3:
        gradients = judge.attention_backward(wide[3], *wide[:3], out, log_sum_exp, *starts, SCALE)
    return out, log_sum_exp, *gradients


def run(ops, device, inputs, queries, keys, longest=(0, 0)):
    q, k, v, dout = (each.to(device) for each in inputs)
    rest = (starts_of(queries).to(device), starts_of(keys).to(device), SCALE, *longest)
    out, log_sum_exp = ops.attention(q, k, v, *rest)
    return out, log_sum_exp, *ops.attention_backward(dout, q, k, v, out, log_sum_exp, *rest)


def check(ops, judge, device, inputs, queries, keys, longest=(0, 0)):
    dtype = inputs[0].dtype
    got = run(ops, device, inputs, queries, keys, longest)
    limits = (OUT[dtype], LOG_SUM_EXP, *[GRADIENT[dtype]] * 3)
    for i, (found, want) in enumerate(zip(got, judged(judge, inputs, queries, keys))):
        assert found.dtype == (torch.float32 if i == 1 else dtype) and found.is_contiguous()
        expect_close(found, want, limits[i])
    return got


# queries, keys, query heads, key heads, channels
CASES = [
    ((), (), 4, 2, 8),
    ((0, 0), (0, 0), 4, 2, 8),
    ((0, 0), (3, 0), 4, 2, 8),
    ((1,), (1,), 2, 2, 8),
    ((1, 0), (40, 7), 4, 2, 16),
    ((5, 0, 3), (5, 0, 3), 4, 2, 8),
    ((2, 1, 3, 0), (4, 70, 3, 9), 4, 2, 64),
    ((127, 128, 129, 1), (127, 128, 129, 1), 4, 1, 64),
    ((300,), (300,), 8, 2, 128),
    ((40, 200), (333, 201), 6, 2, 128),
    ((33, 31), (33, 64), 2, 2, 20),
    ((65, 10), (70, 10), 3, 3, 7),
    ((70,), (90,), 2, 1, 256),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_attention(ops, judge, device, dtype, case):
    queries, keys, *sizes = case
    inputs = make_inputs(queries, keys, *sizes, dtype)
    dout = torch.randn(inputs[0].shape).to(dtype)
    check(ops, judge, device, (*inputs, dout), queries, keys)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_on_lengths(ops, judge, device, dtype):
    """Bounds change grids, not results; unused capacity is empty sequences at the end."""
    queries, keys = (50, 3, 17, *[0] * 20), (50, 90, 17, *[0] * 20)
    inputs = make_inputs(queries, keys, 4, 2, 64, dtype)
    inputs = (*inputs, torch.randn(inputs[0].shape).to(dtype))
    exact = check(ops, judge, device, inputs, queries, keys, (50, 90))
    for found, other in zip(exact[:2], run(ops, device, inputs, queries, keys)):
        assert torch.equal(found, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_begin_anywhere(ops, judge, device, dtype):
    queries = (40, 9)
    q, k, v = make_inputs(queries, queries, 4, 2, 67, dtype)
    inputs = (q[..., 1:65], k[..., 3:], v.transpose(1, 2).contiguous().transpose(1, 2)[..., :64])
    check(ops, judge, device, (*inputs, torch.randn(49, 8, 64).to(dtype)[:, ::2]), queries, queries)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries, keys", [((300, 1, 200), (300, 40, 500)), ((700,), (700,))])
def test_equal_bits_where_that_is_asked_for(
    ops, judge, device, deterministic, dtype, queries, keys
):
    inputs = make_inputs(queries, keys, 4, 2, 64, dtype)
    inputs = (*inputs, torch.randn(inputs[0].shape).to(dtype))
    first = check(ops, judge, device, inputs, queries, keys)
    for one, two in zip(first, run(ops, device, inputs, queries, keys)):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large(ops, judge, device, dtype):
    queries = (1500, 3, 700)
    inputs = make_inputs(queries, queries, 8, 2, 128, dtype)
    check(
        ops, judge, device, (*inputs, torch.randn(inputs[0].shape).to(dtype)), queries, queries
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_autograd(ops, device, dtype):
    queries = (30, 40)
    inputs = make_inputs(queries, queries, 4, 2, 64, dtype)
    dout = torch.randn(inputs[0].shape).to(dtype)
    leaves = [each.to(device).requires_grad_() for each in inputs]
    starts = starts_of(queries).to(device)
    ops.attention(*leaves, starts, starts, SCALE)[0].backward(dout.to(device))
    for leaf, want in zip(leaves, run(ops, device, (*inputs, dout), queries, queries)[2:]):
        expect_close(leaf.grad, want.double().cpu(), GRADIENT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_captured_graph_serves_other_layouts(ops, judge, device, dtype):
    inputs = make_inputs((60,), (60,), 4, 2, 64, dtype)
    q, k, v = (each.to(device) for each in inputs)
    starts = starts_of((20, 40, 0)).to(device)
    ops.attention(q, k, v, starts, starts, SCALE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, log_sum_exp = ops.attention(q, k, v, starts, starts, SCALE)
    for lengths in ((20, 40, 0), (1, 9, 50), (60, 0, 0)):
        starts.copy_(starts_of(lengths))
        graph.replay()
        want = judged(judge, inputs, lengths, lengths)
        expect_close(out, want[0], OUT[dtype])
        expect_close(log_sum_exp, want[1], LOG_SUM_EXP)


def test_refuses_what_the_kernels_do_not_take(ops, device):
    starts = starts_of((2,)).to(device)
    for dtype, channels, message in (
        (torch.float64, 8, "float32 or bfloat16"),
        (torch.float16, 8, "float32 or bfloat16"),
        (torch.bfloat16, 264, "at most 256"),
    ):
        x = torch.zeros(2, 1, channels, dtype=dtype, device=device)
        with pytest.raises((RuntimeError, NotImplementedError), match=message):
            ops.attention(x, x, x, starts, starts, SCALE)
