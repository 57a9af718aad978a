# SPDX-License-Identifier: Apache-2.0
"""The causal convolution under causal-conv1d's names and signatures.

Widths from 1 to 8 (theirs: 2 to 4), any strides, CPU and CUDA; fp32, bf16 and fp64 are computed as
they are, fp16 in fp32. A document of `seq_idx` is a run of equal numbers; negative ones are padding,
whose outputs and gradients are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _document_ops, _slots, rows

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"]

_MAX_WIDTH = 8


def check_parameters(function: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _checks.dims_are(function, "weight", weight, "dim, width")
    dim = x.shape[1]
    _checks.shape_is(function, "weight", weight, "dim, width", (dim, weight.shape[1]))
    if not 1 <= weight.shape[1] <= _MAX_WIDTH:
        raise ValueError(
            f"{function}: the width of weight must lie in [1, {_MAX_WIDTH}], got {weight.shape[1]}"
        )
    if bias is not None:
        _checks.shape_is(function, "bias", bias, "dim", (dim,))
    for name, tensor in (("x", x), ("weight", weight)):
        _checks.is_floating(function, name, tensor)
    _checks.same_device(function, x, weight=weight, bias=bias)


def _packed(x: Tensor, compute: torch.dtype) -> Tensor:
    """x [batch, dim, seqlen] as [batch * seqlen, dim]; a view where channels lie side by side."""
    return x.transpose(1, 2).flatten(0, 1).to(compute)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise causal convolution: out[b, c, t] = act(bias[c] + sum_k weight[c, k] x[b, c, t-K+1+k]).

    Args:
        x: [batch, dim, seqlen], any strides; channels side by side save a copy.
        weight: [dim, width], width from 1 to 8.
        bias: [dim].
        seq_idx: int32 or int64 [batch, seqlen]; inputs of other documents count as zero. Not
            together with states.
        initial_states: [batch, dim, width - 1], the inputs before x; zero if absent.
        return_final_states: also return the last width - 1 inputs, [batch, dim, width - 1].
        final_states_out: a tensor of that shape to write them to.
        activation: None, "silu" or "swish".

    Returns:
        out like x, or (out, final states). Differentiable in x, weight, bias, initial_states.

    Raises:
        ValueError, with the argument and the rule; NotImplementedError for another activation.
    """
    function = "causal_conv1d_fn"
    silu = _checks.uses_silu(function, activation)
    _checks.dims_are(function, "x", x, "batch, dim, seqlen")
    check_parameters(function, x, weight, bias)
    batch, dim, seqlen = x.shape
    state_shape = (batch, dim, weight.shape[1] - 1)
    if seq_idx is not None:
        _checks.shape_is(function, "seq_idx", seq_idx, "batch, seqlen", (batch, seqlen))
        _checks.is_integral(function, "seq_idx", seq_idx)
        if initial_states is not None or return_final_states:
            raise ValueError(
                f"{function}: initial_states and return_final_states do not go with seq_idx"
            )
    for name, states in (("initial_states", initial_states), ("final_states_out", final_states_out)):
        if states is not None:
            _checks.shape_is(function, name, states, "batch, dim, width - 1", state_shape)
    _checks.same_device(function, x, seq_idx=seq_idx, initial_states=initial_states)

    compute = _checks.compute_dtype(x)
    packed = _packed(x, compute)
    weight = _checks.as_parameter(weight, compute)
    bias = _checks.as_parameter(bias, compute)
    final = None
    if seq_idx is not None and seqlen > 0:
        y = _document_ops.causal_conv1d(packed, weight, bias, seq_idx, silu)
        y = y.masked_fill(seq_idx.flatten().lt(0).unsqueeze(1), 0.0)
    else:
        starts = rows.even_starts(batch, seqlen, x.device)
        states = None if initial_states is None else initial_states.to(compute)
        y, final = torch.ops.baton.causal_conv1d(packed, weight, bias, starts, states, None, silu)
    out = y.view(batch, seqlen, dim).transpose(1, 2).to(x.dtype)
    if x.stride(2) == 1 and x.stride(1) != 1:
        out = out.contiguous()
    if not return_final_states:
        return out
    if final_states_out is None:
        return out, final.to(x.dtype)
    return out, final_states_out.copy_(final)


def _advance(
    state: Tensor, x: Tensor, width: int, cache_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(the width - 1 inputs before x, the state behind it) of state [batch, dim, state_len]."""
    state_len, seqlen = state.shape[2], x.shape[2]
    if cache_seqlens is None:
        before = state[..., state_len - (width - 1) :]
        return before, torch.cat([state, x.to(state.dtype)], -1)[..., -state_len:]
    ends = cache_seqlens.long().unsqueeze(1)
    device = x.device
    past = ((ends + torch.arange(1 - width, 0, device=device)) % state_len).unsqueeze(1)
    before = state.gather(2, past.expand(-1, x.shape[1], -1))
    # Of more tokens than the buffer holds, the last ones stay.
    kept = torch.arange(max(seqlen - state_len, 0), seqlen, device=device)
    to = ((ends + kept) % state_len).unsqueeze(1).expand(-1, x.shape[1], -1)
    return before, state.scatter(2, to, x[..., kept].to(state.dtype))


def _step(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, slots: Tensor
) -> Tensor:
    """One token, in place. The operator's state has as many columns as its width less one: taps of
    weight zero make up for the columns that the convolution does not read."""
    extra = conv_state.shape[2] - (weight.shape[1] - 1)
    weight = F.pad(weight, (extra, 0)) if extra > 0 else weight
    return torch.ops.baton.causal_conv1d_step_(x, weight, bias, conv_state, slots, silu)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Continues sequences by their next tokens, and advances `conv_state` in place.

    Args:
        x: [batch, dim], or [batch, dim, seqlen].
        conv_state: [batch, dim, state_len] with state_len >= width - 1, the newest input last; or
            [slots, dim, state_len] with conv_state_indices.
        weight: [dim, width], width from 1 to 8.
        bias: [dim].
        activation: None, "silu" or "swish".
        cache_seqlens: int32 [batch]; conv_state is then a ring, and the next input of sequence b
            goes to column cache_seqlens[b] % state_len.
        conv_state_indices: int32 [batch], the slot of each sequence; no slot twice. A negative one
            is padding: its output is zero and no state changes.

    Returns:
        out like x. No gradient flows through it, or through the state.

    Raises:
        ValueError, with the argument and the rule; NotImplementedError for another activation.
    """
    function = "causal_conv1d_update"
    silu = _checks.uses_silu(function, activation)
    if x.dim() not in (2, 3):
        raise ValueError(
            f"{function}: x must have dims [batch, dim] or [batch, dim, seqlen], got shape"
            f" {list(x.shape)}"
        )
    tokens = x.unsqueeze(-1) if x.dim() == 2 else x
    batch, dim, seqlen = tokens.shape
    check_parameters(function, tokens, weight, bias)
    _checks.dims_are(function, "conv_state", conv_state, "slots, dim, state_len")
    width, state_len = weight.shape[1], conv_state.shape[2]
    slots = conv_state.shape[0] if conv_state_indices is not None else batch
    _checks.shape_is(
        function, "conv_state", conv_state, "batch, dim, state_len", (slots, dim, state_len)
    )
    if state_len < width - 1:
        raise ValueError(
            f"{function}: conv_state must hold width - 1 = {width - 1} inputs, got {state_len}"
        )
    for name, tensor in (
        ("cache_seqlens", cache_seqlens),
        ("conv_state_indices", conv_state_indices),
    ):
        if tensor is not None:
            _checks.shape_is(function, name, tensor, "batch", (batch,))
            _checks.is_integral(function, name, tensor)
    _checks.same_device(
        function, x, conv_state=conv_state, cache_seqlens=cache_seqlens,
        conv_state_indices=conv_state_indices,
    )  # fmt: skip
    with torch.no_grad():
        out = _update(tokens, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices)
    return out.squeeze(-1) if x.dim() == 2 else out


def _update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    cache_seqlens: Tensor | None,
    indices: Tensor | None,
) -> Tensor:
    batch, dim, seqlen = x.shape
    width, state_len = weight.shape[1], conv_state.shape[2]
    compute = _checks.compute_dtype(x)
    weight = _checks.as_parameter(weight, compute)
    bias = _checks.as_parameter(bias, compute)
    slots = None if indices is None else indices.int()
    in_place = (
        seqlen == 1
        and cache_seqlens is None
        and 0 < state_len < _MAX_WIDTH
        and conv_state.stride(2) == 1
        and conv_state.stride(1) == state_len
        and compute == x.dtype
        and conv_state.dtype in (compute, _checks.state_dtype(compute))
    )
    if in_place:
        every = torch.arange(batch, dtype=torch.int32, device=x.device) if slots is None else slots
        y = _step(x.squeeze(-1), conv_state, weight, bias, silu, every)
    else:
        state = conv_state if slots is None else conv_state[slots.clamp_min(0).long()]
        before, behind = _advance(state, x, width, cache_seqlens)
        starts = rows.even_starts(batch, seqlen, x.device)
        y, _ = torch.ops.baton.causal_conv1d(
            _packed(x, compute), weight, bias, starts, before.to(compute), None, silu
        )
        _slots.write(conv_state, slots, behind)
    if slots is not None:
        padding = slots.lt(0).unsqueeze(1)
        y = y.view(batch, seqlen, dim).masked_fill(padding.unsqueeze(2), 0.0)
    return y.view(batch, seqlen, dim).transpose(1, 2).to(x.dtype)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last `state_len` inputs of packed sequences.

    Args:
        x: [tokens, dim].
        cu_seqlens: int32 or int64 [batch + 1], rising from 0; tokens behind the last are left out.
        state_len: how many inputs; those before a sequence's first are zero.

    Returns:
        [batch, dim, state_len] in x's dtype. No gradient flows through it.

    Raises:
        ValueError, with the argument and the rule.
    """
    function = "causal_conv1d_varlen_states"
    _checks.dims_are(function, "x", x, "tokens, dim")
    _checks.dims_are(function, "cu_seqlens", cu_seqlens, "batch + 1")
    _checks.is_integral(function, "cu_seqlens", cu_seqlens)
    _checks.same_device(function, x, cu_seqlens=cu_seqlens)
    if state_len < 0:
        raise ValueError(f"{function}: state_len must not be negative, got {state_len}")
    with torch.no_grad():
        begin, end = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
        token = end + torch.arange(-state_len, 0, device=x.device)
        inside = token >= begin
        if x.shape[0] == 0:
            return x.new_zeros(begin.shape[0], x.shape[1], state_len)
        taken = x[token.clamp_min(0)].masked_fill(~inside.unsqueeze(-1), 0.0)
    return taken.transpose(1, 2)
