# SPDX-License-Identifier: Apache-2.0
"""Attention over pages and the writing of pages on CUDA, against the CPU operators in fp64."""

import math

import pytest
import torch

# Relative to the largest value: fp32 rounds scores, exponentials and sums of a thousand terms; bf16
# rounds probabilities before the tensor units multiply them, and the result, by 2^-9 each.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def int32(values, device="cpu"):
    return torch.tensor(values, dtype=torch.int32, device=device)


def starts_of(lengths, device="cpu"):
    return int32([sum(lengths[:i]) for i in range(len(lengths) + 1)], device)


class Cache:
    """Pages in random order, keys and values of a page side by side; NaN is what nobody may read."""

    def __init__(self, lengths, page_size, heads, channels, dtype, device, extra_width=0, shift=0):
        self.lengths = lengths
        width = max([1] + [math.ceil(length / page_size) for length in lengths]) + extra_width
        pages = len(lengths) * width + 2
        storage = torch.full((pages, page_size, 2, heads, channels + shift), math.nan, dtype=dtype)
        table = torch.randperm(pages)[: len(lengths) * width].view(len(lengths), width)
        for sequence, length in enumerate(lengths):
            table[sequence, math.ceil(length / page_size) :] = 1 << 30
        self.cpu_table = table.to(torch.int32)
        for sequence, length in enumerate(lengths):
            for position in range(length):
                page = table[sequence, position // page_size]
                storage[page, position % page_size] = torch.randn(2, heads, channels + shift)
        self.storage = storage[..., shift:]
        self.on_device = storage.to(device)[..., shift:]
        self.table = self.cpu_table.to(device)
        self.device = device

    def attend(self, ops, q, num_new, scale=0.3):
        return ops.paged_attention(
            q,
            self.on_device[:, :, 0],
            self.on_device[:, :, 1],
            self.table,
            starts_of(num_new, self.device),
            int32(self.lengths, self.device),
            scale,
        )

    def judged(self, judge, q, num_new, scale=0.3):
        pages = self.storage.double()
        return judge.paged_attention(
            q.double().cpu(),
            pages[:, :, 0],
            pages[:, :, 1],
            self.cpu_table,
            starts_of(num_new),
            int32(self.lengths),
            scale,
        )


def expect_close(got, expected):
    if got.numel() > 0:
        error = (got.double().cpu() - expected).abs().max().item()
        assert error <= TOLERANCE[got.dtype] * max(1.0, expected.abs().max().item())


def check(cache, ops, judge, q, num_new):
    got = cache.attend(ops, q, num_new)
    assert got.dtype == q.dtype and got.shape == q.shape
    expect_close(got, cache.judged(judge, q, num_new))
    assert torch.equal(got, cache.attend(ops, q, num_new))


# lengths, new tokens, page size, query heads, key heads, channels
CASES = [
    ((), (), 4, 2, 2, 8),
    ((5,), (0,), 4, 2, 2, 8),
    ((1,), (1,), 1, 2, 2, 8),
    ((7, 3, 31, 32, 33), (1, 0, 1, 1, 1), 4, 4, 4, 17),
    ((63, 64, 65, 200), (1, 1, 1, 1), 16, 8, 2, 64),
    ((40, 150, 9), (40, 70, 2), 7, 5, 1, 24),
    ((130,), (100,), 16, 6, 2, 128),
    ((300, 3), (2, 1), 16, 40, 2, 80),
    ((70, 90), (33, 1), 8, 2, 1, 256),
    ((70, 90), (1, 1), 8, 2, 1, 256),
    ((20, 9), (5, 2), 8, 2, 1, 250),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_attention_over_pages(ops, judge, device, dtype, case):
    lengths, num_new, page_size, heads, key_heads, channels = case
    cache = Cache(lengths, page_size, key_heads, channels, dtype, device)
    # A view, as of a joint projection.
    q = torch.randn(sum(num_new), 2 * heads, channels).to(dtype).to(device)[:, :heads]
    check(cache, ops, judge, q, num_new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_table_and_sequences_of_all_lengths(ops, judge, device, dtype):
    """More splits than keys to fill them."""
    lengths = (1, 2, 129, 400)
    cache = Cache(lengths, 16, 2, 64, dtype, device, extra_width=600)
    q = torch.randn(4, 8, 64).to(dtype).to(device)
    check(cache, ops, judge, q, (1, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_that_begin_anywhere(ops, judge, device, dtype):
    cache = Cache((40, 9), 8, 2, 64, dtype, device, shift=3)
    q = torch.randn(3, 4, 67).to(dtype).to(device)[..., 1:65]
    check(cache, ops, judge, q, (2, 1))


def test_unlike_scores(ops, judge, device):
    """A row whose maximum comes late, and scores of some hundred."""
    cache = Cache((150,), 16, 1, 64, torch.float32, device)
    q = 30 * torch.randn(2, 2, 64).to(device)
    got = cache.attend(ops, q, (2,), 1.0)
    # Scores near 1000 carry fp32 errors near 1e-4.
    torch.testing.assert_close(
        got.double().cpu(), cache.judged(judge, q, (2,), 1.0), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_refuses_other_dtypes(ops, device, dtype):
    pages = torch.zeros(2, 4, 1, 8, dtype=dtype, device=device)
    q = torch.zeros(1, 1, 8, dtype=dtype, device=device)
    tables = (int32([[0]], device), int32([0, 1], device), int32([1], device))
    with pytest.raises((RuntimeError, NotImplementedError), match="float32 or bfloat16"):
        ops.paged_attention(q, pages, pages, *tables, 1.0)
    with pytest.raises((RuntimeError, NotImplementedError), match="float32 or bfloat16"):
        ops.paged_write_(pages, pages, q, q, *tables)


@pytest.mark.parametrize("pages_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 16])
def test_paged_write(ops, judge, device, dtype, pages_dtype, channels):
    num_new, first, heads = (5, 0, 1, 9), (3, 0, 8, 0), 3
    tokens = sum(num_new)
    table = torch.randperm(12).view(4, 3).to(torch.int32)
    k = torch.randn(tokens, 2 * heads, channels).to(dtype)[:, heads:]
    v = torch.randn(heads, tokens, channels).to(dtype).transpose(0, 1)
    expected = torch.randn(12, 4, 2, heads, channels).to(pages_dtype)
    found = expected.clone().to(device)
    rest = (starts_of(num_new), int32(first))
    judge.paged_write_(expected[:, :, 0], expected[:, :, 1], k, v, table, *rest)
    ops.paged_write_(
        found[:, :, 0],
        found[:, :, 1],
        k.to(device),
        v.to(device),
        table.to(device),
        *(each.to(device) for each in rest),
    )
    assert torch.equal(found.cpu(), expected)


def test_paged_write_without_a_page(ops, device):
    """A position past the table and a page that does not exist are the caller's mistakes."""
    pages = torch.zeros(2, 4, 2, 1, 8, device=device)
    k = torch.ones(3, 1, 8, device=device)
    for table, first in (([[0]], [3]), ([[7, 1]], [3]), ([[-1, 1]], [-2])):
        ops.paged_write_(
            pages[:, :, 0],
            pages[:, :, 1],
            k,
            k,
            int32(table, device),
            int32([0, 3], device),
            int32(first, device),
        )
    assert pages.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "lengths, num_new",
    [((4000, 1, 2500, 17), (1, 1, 1, 1)), ((3000, 700), (900, 700)), ((600,) * 64, (1,) * 64)],
)
def test_large(ops, judge, device, emulated, dtype, lengths, num_new):
    if emulated:
        pytest.skip("takes a GPU")
    cache = Cache(lengths, 16, 4, 128, dtype, device)
    q = torch.randn(sum(num_new), 16, 128).to(dtype).to(device)
    check(cache, ops, judge, q, num_new)


def test_captured_graph_serves_other_batches(ops, judge, device, emulated):
    if emulated:
        pytest.skip("takes a GPU")
    cache = Cache((300, 40), 16, 2, 64, torch.bfloat16, device)
    q = torch.randn(2, 8, 64, device=device).to(torch.bfloat16)
    starts, lengths = starts_of((1, 1), device), int32((300, 40), device)
    pages = (cache.on_device[:, :, 0], cache.on_device[:, :, 1], cache.table)
    ops.paged_attention(q, *pages, starts, lengths, 0.3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.paged_attention(q, *pages, starts, lengths, 0.3)
    for other in ((300, 40), (17, 39)):
        lengths.copy_(int32(other))
        cache.lengths = other
        graph.replay()
        expect_close(out, cache.judged(judge, q, (1, 1)))
