# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations`: torch reads the operators' schemas off the annotations.
"""Operators on rows that hold several documents.

How many documents there are is known only when `seq_idx` is read, so shapes of what happens inside
are not known to a compiler. As operators of their own, with rows going in and rows coming out, they
are traced in one graph. They are made of `baton::ssd` and `baton::causal_conv1d`.
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import rows


def _ops():
    return torch.ops.baton


def initial_slots(seq_idx: Tensor, found: rows.Documents) -> Tensor:
    """int32 [B]: the row whose state a document starts from, -1 for none.

    A state belongs to document 0 of its row, so that a row that begins with another one starts
    from zero.
    """
    device = seq_idx.device
    slots = torch.full((found.starts.shape[0] - 1,), -1, dtype=torch.int32, device=device)
    row = torch.arange(seq_idx.shape[0], dtype=torch.int32, device=device)
    slots[found.first] = torch.where(seq_idx[:, 0] == 0, row, -1)
    return slots


@torch.library.custom_op("baton_rows::ssd", mutates_args=())
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    seq_idx: Tensor,
    D: Optional[Tensor] = None,
    dt_bias: Optional[Tensor] = None,
    initial_states: Optional[Tensor] = None,
    dt_softplus: bool = True,
    dt_min: float = 0.0,
    dt_max: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """`baton::ssd` on the documents of rows: y [T, H, P], and each row's last state [batch, H, P, N].

    x, dt, B and C are packed, T = batch * seqlen; initial_states [batch, H, P, N].
    """
    found = rows.documents(seq_idx)
    slots = None if initial_states is None else initial_slots(seq_idx, found)
    y, states = _ops().ssd(
        x, dt, A, B, C, found.starts, D, dt_bias, initial_states, slots,
        dt_softplus, dt_min, dt_max,
    )  # fmt: skip
    return y, states.index_select(0, found.last)


@ssd.register_fake
def _(
    x, dt, A, B, C, seq_idx, D=None, dt_bias=None, initial_states=None,
    dt_softplus=True, dt_min=0.0, dt_max=None,
):  # fmt: skip
    states = (seq_idx.shape[0], x.shape[1], x.shape[2], B.shape[2])
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(states, dtype=wide)


@torch.library.custom_op("baton_rows::ssd_backward", mutates_args=())
def ssd_backward(
    dy: Tensor,
    dlast_states: Optional[Tensor],
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    seq_idx: Tensor,
    D: Optional[Tensor],
    dt_bias: Optional[Tensor],
    initial_states: Optional[Tensor],
    dt_softplus: bool,
    dt_min: float,
    dt_max: Optional[float],
) -> List[Tensor]:
    """Gradients of x, dt, A, B, C, D, dt_bias and initial_states; those of absent ones are empty."""
    found = rows.documents(seq_idx)
    slots = None if initial_states is None else initial_slots(seq_idx, found)
    dstates = None
    if dlast_states is not None:
        count = found.starts.shape[0] - 1
        dstates = dlast_states.new_zeros(count, *dlast_states.shape[1:])
        dstates.index_copy_(0, found.last, dlast_states)
    return list(
        _ops().ssd_backward(
            dy, dstates, x, dt, A, B, C, found.starts, D, dt_bias, initial_states, slots,
            dt_softplus, dt_min, dt_max,
        )  # fmt: skip
    )


@ssd_backward.register_fake
def _(dy, dlast_states, x, dt, A, B, C, seq_idx, D, dt_bias, initial_states, *options):
    inputs = (x, dt, A, B, C, D, dt_bias, initial_states)
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs]


def _save_ssd(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:9])
    ctx.options = inputs[9:]


def _ssd_gradients(ctx, dy, dlast_states):
    x, dt, A, B, C, seq_idx, D, dt_bias, initial_states = ctx.saved_tensors
    dy = torch.zeros_like(x) if dy is None else dy
    gradients = ssd_backward(
        dy, dlast_states, x, dt, A, B, C, seq_idx, D, dt_bias, initial_states, *ctx.options
    )
    dx, ddt, dA, dB, dC, dD, ddt_bias, dinitial = gradients
    given = [
        None if tensor is None else gradient
        for tensor, gradient in ((D, dD), (dt_bias, ddt_bias), (initial_states, dinitial))
    ]
    return dx, ddt, dA, dB, dC, None, *given, None, None, None


ssd.register_autograd(_ssd_gradients, setup_context=_save_ssd)


@torch.library.custom_op("baton_rows::causal_conv1d", mutates_args=())
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], seq_idx: Tensor, silu: bool
) -> Tensor:
    """`baton::causal_conv1d` on the documents of rows: x and y [T, C], T = batch * seqlen."""
    starts = rows.documents(seq_idx).starts
    return _ops().causal_conv1d(x, weight, bias, starts, None, None, silu)[0]


@causal_conv1d.register_fake
def _(x, weight, bias, seq_idx, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("baton_rows::causal_conv1d_backward", mutates_args=())
def causal_conv1d_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Optional[Tensor], seq_idx: Tensor, silu: bool
) -> List[Tensor]:
    """Gradients of x, weight and bias; that of an absent bias is empty."""
    starts = rows.documents(seq_idx).starts
    found = _ops().causal_conv1d_backward(dy, None, x, weight, bias, starts, None, None, silu)
    return list(found[:3])


@causal_conv1d_backward.register_fake
def _(dy, x, weight, bias, seq_idx, silu):
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, bias)]


def _save_conv(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.silu = inputs[4]


def _conv_gradients(ctx, dy):
    x, weight, bias, seq_idx = ctx.saved_tensors
    dx, dweight, dbias = causal_conv1d_backward(dy, x, weight, bias, seq_idx, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None, None


causal_conv1d.register_autograd(_conv_gradients, setup_context=_save_conv)
