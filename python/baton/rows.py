# SPDX-License-Identifier: Apache-2.0
"""From batches of rows to packed tokens: where the sequences begin.

The operators take packed tokens and `starts`. A batch [batch, seqlen, ...] is the case of equal
sequences. Where rows hold several documents, `seq_idx` [batch, seqlen] says which document a token
belongs to; a document is a run of equal numbers, and never crosses from one row to the next.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor


class Documents(NamedTuple):
    """The documents of a batch of rows; B of them, at least one a row that is not empty."""

    starts: Tensor  # int32 [B + 1], from 0 to batch * seqlen
    first: Tensor  # int64 [batch], the first document of every row
    last: Tensor  # int64 [batch], the last one


def even_starts(batch: int, seqlen: int, device: torch.device) -> Tensor:
    """int32 [batch + 1]: every row is one sequence."""
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * seqlen


def _find_documents(seq_idx: Tensor) -> Documents:
    batch, seqlen = seq_idx.shape
    device = seq_idx.device
    begins = torch.ones(batch, seqlen, dtype=torch.bool, device=device)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    positions = begins.flatten().nonzero().squeeze(1)
    end = torch.full((1,), batch * seqlen, dtype=positions.dtype, device=device)
    behind = begins.sum(1).cumsum(0)
    first = torch.cat([torch.zeros_like(behind[:1]), behind[:-1]])
    return Documents(torch.cat([positions, end]).int(), first, behind - 1)


# All layers of a model are asked about the same tensor, and on a GPU every answer waits for it.
_latest: tuple[weakref.ref, int, Documents] | None = None


def documents(seq_idx: Tensor) -> Documents:
    """Documents of `seq_idx` [batch, seqlen], seqlen > 0. Their number is read on the host."""
    global _latest
    if seq_idx.is_inference():  # has no version that would tell of a change
        return _find_documents(seq_idx)
    kept = _latest
    if kept is not None and kept[0]() is seq_idx and kept[1] == seq_idx._version:
        return kept[2]
    with torch.inference_mode(False):
        found = _find_documents(seq_idx)
    _latest = (weakref.ref(seq_idx), seq_idx._version, found)
    return found
