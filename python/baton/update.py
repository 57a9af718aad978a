# SPDX-License-Identifier: Apache-2.0
"""One token of a selective state-space model under mamba_ssm's name and signature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _slots

__all__ = ["selective_state_update"]

_FUNCTION = "selective_state_update"


def _tied(tensor: Tensor | None, first: int) -> bool:
    """Whether dims from `first` on repeat one value: of size 1 or expanded."""
    if tensor is None:
        return True
    dims = range(first, tensor.dim())
    return all(tensor.shape[dim] == 1 or tensor.stride(dim) == 0 for dim in dims)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Advances `state` in place by one token: h = exp(dt A) h + dt x B^T, out = (h C + D x) silu(z).

    Where dt, dt_bias and A have one value a head (expanded over headdim and dstate, as Mamba-2 does),
    Baton's operator runs; else, as for Mamba-1, the formula in torch.

    Args:
        state: [batch, dim, dstate] or [batch, nheads, dim, dstate]; any floating dtype, fp32 is
            advanced where it lies. With state_batch_indices the first dim is of slots.
        x: [batch, dim] or [batch, nheads, dim].
        dt: like x, before dt_bias and softplus.
        A: [dim, dstate] or [nheads, dim, dstate], negative.
        B, C: [batch, dstate] or [batch, ngroups, dstate].
        D, dt_bias: [dim] or [nheads, dim].
        z: like x.
        dt_softplus: whether softplus is applied to dt + dt_bias.
        state_batch_indices: int32 or int64 [batch], the slot of each sequence; no slot twice. A
            negative one is padding: it starts from zero and changes no state.

    Returns:
        out like x. No gradient flows through it, or through the state.

    Raises:
        ValueError, with the argument and the rule.
    """
    if state.dim() not in (3, 4):
        raise ValueError(
            f"{_FUNCTION}: state must have dims [batch, dim, dstate] or [batch, nheads, dim,"
            f" dstate], got shape {list(state.shape)}"
        )
    has_heads = state.dim() == 4
    with torch.no_grad():
        states = state if has_heads else state.unsqueeze(1)
        x_heads, dt, z = (
            t if t is None or t.dim() > 2 else t.unsqueeze(1) for t in (x, dt, z)
        )
        A = A if A.dim() > 2 else A.unsqueeze(0)
        B, C = (t if t.dim() > 2 else t.unsqueeze(1) for t in (B, C))
        D, dt_bias = (t if t is None or t.dim() > 1 else t.unsqueeze(0) for t in (D, dt_bias))
        _check(states, x_heads, dt, A, B, C, D, z, dt_bias, state_batch_indices)
        tied = _tied(dt, 2) and _tied(A, 1) and _tied(dt_bias, 1)
        run = _step if tied else _formula
        slots = None if state_batch_indices is None else state_batch_indices.int()
        out = run(states, x_heads, dt, A, B, C, D, dt_bias, dt_softplus, slots)
        if z is not None:
            out = torch.ops.baton.gated_norm(out, z.to(out.dtype), None, 0.0, 1, True)
    return (out if has_heads else out.squeeze(1)).to(x.dtype)


def _check(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    indices: Tensor | None,
) -> None:
    slots, nheads, dim, dstate = state.shape
    batch, ngroups = x.shape[0], B.shape[1]
    heads = (batch, nheads, dim)
    _checks.shape_is(_FUNCTION, "x", x, "batch, nheads, dim", heads)
    _checks.shape_is(_FUNCTION, "dt", dt, "batch, nheads, dim", heads)
    _checks.shape_is(_FUNCTION, "A", A, "nheads, dim, dstate", (nheads, dim, dstate))
    if ngroups == 0 or nheads % ngroups != 0:
        raise ValueError(
            f"{_FUNCTION}: nheads must be a multiple of ngroups, got {nheads} and {ngroups}"
        )
    keys = (batch, ngroups, dstate)
    _checks.shape_is(_FUNCTION, "B", B, "batch, ngroups, dstate", keys)
    _checks.shape_is(_FUNCTION, "C", C, "batch, ngroups, dstate", keys)
    for name, tensor in (("D", D), ("dt_bias", dt_bias)):
        if tensor is not None:
            _checks.shape_is(_FUNCTION, name, tensor, "nheads, dim", (nheads, dim))
    if z is not None:
        _checks.shape_is(_FUNCTION, "z", z, "batch, nheads, dim", heads)
    if indices is not None:
        _checks.shape_is(_FUNCTION, "state_batch_indices", indices, "batch", (batch,))
        _checks.is_integral(_FUNCTION, "state_batch_indices", indices)
    elif slots != batch:
        raise ValueError(
            f"{_FUNCTION}: state must hold one state a sequence, got {slots} for a batch of {batch}"
        )
    for name, tensor in (("state", state), ("x", x), ("dt", dt), ("A", A), ("B", B), ("C", C)):
        _checks.is_floating(_FUNCTION, name, tensor)
    _checks.same_device(
        _FUNCTION, x, state=state, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias,
        state_batch_indices=indices,
    )  # fmt: skip


def _gathered(state: Tensor, slots: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A copy of the states of the batch, zero for padding."""
    if slots is None:
        return state.to(dtype, copy=True, memory_format=torch.contiguous_format)
    taken = state[slots.clamp_min(0).long()].to(dtype)
    return taken.masked_fill(slots.lt(0).view(-1, 1, 1, 1), 0.0)


def _step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    slots: Tensor | None,
) -> Tensor:
    """One value of dt, dt_bias and A a head: Baton's operator."""
    compute = _checks.compute_dtype(x, B, C)
    sums = _checks.state_dtype(compute)
    every = torch.arange(x.shape[0], dtype=torch.int32, device=x.device)
    in_place = state.dtype == sums and state[:1].is_contiguous()
    target = state if in_place else _gathered(state, slots, sums)
    D = D if D is None or not _tied(D, 1) else D[:, 0]
    out = torch.ops.baton.ssd_step_(
        x.to(compute),
        _checks.as_parameter(dt[..., 0], compute),
        _checks.as_parameter(A[:, 0, 0], compute),
        B.to(compute),
        C.to(compute),
        target,
        slots if in_place and slots is not None else every,
        _checks.as_parameter(D, compute),
        None if dt_bias is None else _checks.as_parameter(dt_bias[:, 0], compute),
        dt_softplus,
        0.0 if dt_softplus else -float("inf"),
    )
    if not in_place:
        _slots.write(state, slots, target)
    return out


def _formula(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    slots: Tensor | None,
) -> Tensor:
    """Values of dt, dt_bias or A for each channel: in fp32 (fp64 beside fp64), by torch."""
    sums = _checks.state_dtype(_checks.compute_dtype(x, B, C))
    repeats = state.shape[1] // B.shape[1]
    step, values = dt.to(sums), x.to(sums)
    step = step if dt_bias is None else step + dt_bias.to(sums)
    step = (F.softplus(step) if dt_softplus else step).unsqueeze(-1)
    keys, queries = (t.to(sums).repeat_interleave(repeats, 1).unsqueeze(2) for t in (B, C))
    decayed = torch.exp(step * A.to(sums)) * _gathered(state, slots, sums)
    new = decayed + step * keys * values.unsqueeze(-1)
    _slots.write(state, slots, new)
    out = (new * queries).sum(-1)
    return out if D is None else out + values * D.to(sums)
