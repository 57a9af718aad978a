# SPDX-License-Identifier: Apache-2.0
"""Attention over packed sequences, and over the pages of a cache."""

import functools
import math

import torch
from torch.nn import functional

from .case import Case, even_starts, leaves, randn

ops = torch.ops.baton
PAGE = 64  # what the engine takes


def attend(q, k, v, batch, causal=True):
    """torch's own, on packed tokens of equal lengths."""
    q, k, v = (t.unflatten(0, (batch, -1)).transpose(1, 2) for t in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return out.transpose(1, 2).flatten(0, 1)


@functools.cache
def attention_cases(batch, length, queries, keys, channels, small=None):
    scale = 1 / math.sqrt(channels)
    tokens = batch * length

    def make(device):
        return {"q": randn(device, tokens, queries, channels),
                "k": randn(device, tokens, keys, channels),
                "v": randn(device, tokens, keys, channels),
                "dout": randn(device, tokens, queries, channels),
                "starts": even_starts(device, batch, length)}

    def forward(i):
        return lambda: ops.attention(i["q"], i["k"], i["v"], i["starts"], i["starts"], scale)[:1]

    def backward(i):
        out, sums = ops.attention(i["q"], i["k"], i["v"], i["starts"], i["starts"], scale)
        return lambda: ops.attention_backward(
            i["dout"], i["q"], i["k"], i["v"], out, sums, i["starts"], i["starts"], scale)

    def peer_forward(i):
        return lambda: (attend(i["q"], i["k"], i["v"], batch),)

    def peer_backward(i):
        wanted = leaves(i, ("q", "k", "v"))
        out = attend(*wanted, batch)
        return lambda: torch.autograd.grad(out, wanted, i["dout"], retain_graph=True)

    smalls = attention_cases(*small) if small else (None, None)
    name = f"b{batch} L{length}, {queries} and {keys} heads of {channels}"
    bytes_read = 4 * tokens * channels * (queries + keys)
    flops = 2 * tokens * length * queries * channels  # causal: half of all pairs
    return (
        Case(f"attention, {name}", ("attention",), make, forward, {"torch": peer_forward},
             bytes_read, flops, small=smalls[0]),
        Case(f"attention backward, {name}", ("attention", "attention_backward"), make, backward,
             {"torch": peer_backward}, 2 * bytes_read, 2.5 * flops, small=smalls[1]),
    )


@functools.cache
def paged_case(batch, length, queries, keys, channels, small=None):
    pages = -(-length // PAGE)
    scale = 1 / math.sqrt(channels)

    def make(device):
        table = torch.randperm(batch * pages, device=device).to(torch.int32)
        return {"q": randn(device, batch, queries, channels),
                "k": randn(device, batch * pages, PAGE, keys, channels),
                "v": randn(device, batch * pages, PAGE, keys, channels),
                "table": table.view(batch, pages),
                "starts": even_starts(device, batch, 1),
                "lengths": torch.full((batch,), length, dtype=torch.int32, device=device)}

    def ours(i):
        return lambda: (ops.paged_attention(i["q"], i["k"], i["v"], i["table"], i["starts"],
                                            i["lengths"], scale),)

    def peer(i):
        # The peer reads a cache without pages, laid out as it likes.
        k, v = (i[name][i["table"].long()].flatten(1, 2)[:, :length].transpose(1, 2).contiguous()
                for name in ("k", "v"))
        q = i["q"][:, :, None]
        return lambda: (functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)[:, :, 0],)

    return Case(f"paged_attention, batch {batch}, {length} cached, {queries} and {keys} heads of "
                f"{channels}", ("paged_attention",), make, ours, {"torch, no pages": peer},
                4 * batch * length * keys * channels, graph=True,
                small=paged_case(*small) if small else None)


def cases(small):
    small_size = (2, 100, 4, 2, 64)
    yield from attention_cases(*(small_size if small else (2, 4096, 16, 8, 128)), small_size)
    if not small:
        yield from attention_cases(1, 8192, 32, 8, 64, small_size)
    for batch in ((2,) if small else (1, 128)):
        size = small_size if small else (batch, 4096, 16, 8, 128)
        yield paged_case(*size, small_size)
