# SPDX-License-Identifier: Apache-2.0
"""The scan of Mamba-2 under mamba_ssm's names and signatures, on CPU and CUDA.

States between chunks and final states are fp32 (fp64 beside fp64). fp32, bf16 and fp64 activations
are computed as they are; fp16, and activations of several dtypes, in fp32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _checks, _document_ops, rows
from .conv import causal_conv1d_fn, check_parameters
from .norm import rmsnorm_fn

__all__ = ["mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined"]


class _Options(NamedTuple):
    dt_softplus: bool
    dt_min: float
    dt_max: float | None


def _options(function: str, dt_softplus: bool, dt_limit: tuple[float, float]) -> _Options:
    if len(dt_limit) != 2 or not dt_limit[0] <= dt_limit[1]:
        raise ValueError(f"{function}: dt_limit must be (lowest, highest), got {dt_limit}")
    highest = None if math.isinf(dt_limit[1]) else float(dt_limit[1])
    return _Options(dt_softplus, float(dt_limit[0]), highest)


def _check_state_dtype(function: str, state_dtype: torch.dtype | None) -> None:
    if state_dtype is not None and not state_dtype.is_floating_point:
        raise ValueError(f"{function}: state_dtype must be a floating dtype, got {state_dtype}")


def _check_scan(
    function: str,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
) -> None:
    _checks.dims_are(function, "x", x, "batch, seqlen, nheads, headdim")
    _checks.dims_are(function, "B", B, "batch, seqlen, ngroups, dstate")
    batch, seqlen, nheads, headdim = x.shape
    ngroups, dstate = B.shape[2:]
    if chunk_size <= 0:
        raise ValueError(f"{function}: chunk_size must be positive, got {chunk_size}")
    if ngroups == 0 or nheads % ngroups != 0:
        raise ValueError(
            f"{function}: nheads must be a multiple of ngroups, got {nheads} and {ngroups}"
        )
    keys = (batch, seqlen, ngroups, dstate)
    _checks.shape_is(function, "B", B, "batch, seqlen, ngroups, dstate", keys)
    _checks.shape_is(function, "C", C, "batch, seqlen, ngroups, dstate", keys)
    _checks.shape_is(function, "dt", dt, "batch, seqlen, nheads", (batch, seqlen, nheads))
    _checks.shape_is(function, "A", A, "nheads", (nheads,))
    if D is not None and D.dim() == 1:
        _checks.shape_is(function, "D", D, "nheads", (nheads,))
    elif D is not None:
        _checks.shape_is(function, "D", D, "nheads, headdim", (nheads, headdim))
    if z is not None:
        _checks.shape_is(function, "z", z, "batch, seqlen, nheads, headdim", x.shape)
    if dt_bias is not None:
        _checks.shape_is(function, "dt_bias", dt_bias, "nheads", (nheads,))
    if initial_states is not None:
        shape = (batch, nheads, headdim, dstate)
        names = "batch, nheads, headdim, dstate"
        _checks.shape_is(function, "initial_states", initial_states, names, shape)
    if seq_idx is not None:
        _checks.shape_is(function, "seq_idx", seq_idx, "batch, seqlen", (batch, seqlen))
        _checks.is_integral(function, "seq_idx", seq_idx)
    for name, tensor in (("x", x), ("dt", dt), ("A", A), ("B", B), ("C", C)):
        _checks.is_floating(function, name, tensor)
    _checks.same_device(
        function, x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias,
        initial_states=initial_states, seq_idx=seq_idx,
    )  # fmt: skip


def _check_varlen(
    function: str, x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None
) -> None:
    if cu_seqlens is None:
        raise ValueError(f"{function}: return_varlen_states needs cu_seqlens")
    if seq_idx is None:
        raise ValueError(
            f"{function}: return_varlen_states needs seq_idx, without which the sequences of"
            " cu_seqlens would run into each other"
        )
    if x.shape[0] != 1:
        raise ValueError(f"{function}: return_varlen_states needs a batch of 1, got {x.shape[0]}")
    _checks.dims_are(function, "cu_seqlens", cu_seqlens, "sequences + 1")
    _checks.is_integral(function, "cu_seqlens", cu_seqlens)
    _checks.same_device(function, x, cu_seqlens=cu_seqlens)


def _varlen_states(
    function: str, states: Tensor, starts: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """States [sequences, ...] behind the sequences of `cu_seqlens`, from those behind the documents
    that begin at `starts`; zero for an empty sequence."""
    begin, end = cu_seqlens[:-1].to(starts.dtype), cu_seqlens[1:].to(starts.dtype)
    document = torch.searchsorted(starts[1:].contiguous(), end.contiguous())
    document = document.clamp_max(max(states.shape[0] - 1, 0))
    filled = end > begin
    agrees = (starts[document] == begin) & (starts[document + 1] == end)
    if not bool((agrees | ~filled).all()):
        raise ValueError(f"{function}: the sequences of cu_seqlens must be documents of seq_idx")
    return states[document].masked_fill(~filled.view(-1, 1, 1, 1), 0.0)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """The scan: h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, out_t = (h_t C_t + D x_t) silu(z_t).

    Args:
        x: [batch, seqlen, nheads, headdim], any strides.
        dt: [batch, seqlen, nheads]; dt_t = clamp(softplus(dt + dt_bias), dt_limit).
        A: [nheads], negative.
        B, C: [batch, seqlen, ngroups, dstate]; head h reads group h // (nheads // ngroups).
        chunk_size: taken for the signature's sake; the operator has its own chunks.
        D: [nheads] or [nheads, headdim].
        z: like x.
        dt_bias: [nheads].
        initial_states: [batch, nheads, headdim, dstate]; with seq_idx they belong to document 0.
        seq_idx: int32 or int64 [batch, seqlen]; no state passes from one document to another.
        cu_seqlens: int32 or int64 [sequences + 1], read with return_varlen_states only.
        dt_softplus: whether softplus is applied.
        dt_limit: dt is held between these; its gradient is zero where they cut.
        return_final_states: also return the states behind each row, [batch, nheads, headdim, dstate].
        return_varlen_states: also return the states behind the sequences of cu_seqlens, which are
            documents of seq_idx in a batch of one: [sequences, nheads, headdim, dstate].
        state_dtype: of the varlen states; C's if absent. States inside are fp32 whatever it says.

    Returns:
        out like x; with final or varlen states, or both, a tuple (out, final, varlen). out and the
        final states are differentiable in every floating input; the varlen states are not.

    Raises:
        ValueError, with the argument and the rule.
    """
    function = "mamba_chunk_scan_combined"
    _check_scan(
        function, x, dt, A, B, C, chunk_size, D, z, dt_bias, initial_states, seq_idx
    )  # fmt: skip
    _check_state_dtype(function, state_dtype)
    options = _options(function, dt_softplus, dt_limit)
    if return_varlen_states:
        _check_varlen(function, x, seq_idx, cu_seqlens)

    batch, seqlen = x.shape[:2]
    compute = _checks.compute_dtype(x, B, C)
    sums = _checks.state_dtype(compute)
    inputs = [
        x.flatten(0, 1).to(compute),
        _checks.as_parameter(dt.flatten(0, 1), compute),
        _checks.as_parameter(A, compute),
        B.flatten(0, 1).to(compute),
        C.flatten(0, 1).to(compute),
    ]
    D = _checks.as_parameter(D, compute)
    dt_bias = _checks.as_parameter(dt_bias, compute)
    initial = None if initial_states is None else initial_states.to(sums)
    gate = None if z is None else z.flatten(0, 1).to(compute)
    varlen = None
    if return_varlen_states and seqlen > 0:
        # One document may be asked for its state, so all of them are kept.
        found = rows.documents(seq_idx)
        slots = None if initial is None else _document_ops.initial_slots(seq_idx, found)
        y, states = torch.ops.baton.ssd(
            *inputs, found.starts, D, dt_bias, initial, slots, *options, True, gate
        )
        final = states.index_select(0, found.last)
        with torch.no_grad():
            varlen = _varlen_states(function, states.detach(), found.starts, cu_seqlens)
    elif seq_idx is not None and seqlen > 0:
        y, final = _document_ops.ssd(*inputs, seq_idx, D, dt_bias, initial, *options)
        if gate is not None:
            y = torch.ops.baton.gated_norm(y.flatten(1), gate.flatten(1), None, 0.0, 1, True)
    else:
        starts = rows.even_starts(batch, seqlen, x.device)
        y, final = torch.ops.baton.ssd(
            *inputs, starts, D, dt_bias, initial, None, *options, True, gate
        )
        if return_varlen_states:
            varlen = final.new_zeros(cu_seqlens.shape[0] - 1, *final.shape[1:])
    out = y.view(x.shape).to(x.dtype)
    if return_varlen_states:
        varlen = varlen.to(C.dtype if state_dtype is None else state_dtype)
        return (out, final, varlen) if return_final_states else (out, varlen)
    return (out, final) if return_final_states else out


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A Mamba-2 mixer between its projections: convolution, scan, gate and norm, and the way out.

    Args:
        zxbcdt: [batch, seqlen, 2 mlp + 2 dim + 2 ngroups dstate + nheads], dim = nheads headdim: an
            MLP's two halves (mostly absent, mlp = 0), z, then x, B and C, then dt.
        conv1d_weight: [dim + 2 ngroups dstate, width]; conv1d_bias: [dim + 2 ngroups dstate].
        dt_bias, A: [nheads].
        D: [nheads], with headdim given, or [nheads, headdim].
        chunk_size, initial_states, seq_idx, dt_limit, state_dtype: as in
            `mamba_chunk_scan_combined`; the convolution starts from zeros.
        return_final_states: also return the states, [batch, nheads, headdim, dstate].
        activation: of the convolution: None, "silu" or "swish".
        rmsnorm_weight: [dim]; with it, a gated norm over groups of dim // ngroups channels takes
            the place of out silu(z).
        rmsnorm_eps, norm_before_gate: of that norm.
        outproj_weight: [out_dim, mlp + dim]; outproj_bias: [out_dim].

    Returns:
        [batch, seqlen, out_dim or mlp + dim], or that and the final states. Differentiable in every
        floating input.

    Raises:
        ValueError, with the argument and the rule; NotImplementedError for another activation.
    """
    function = "mamba_split_conv1d_scan_combined"
    sizes = _split_sizes(function, zxbcdt, conv1d_weight, D, headdim, ngroups)
    if outproj_bias is not None and outproj_weight is None:
        raise ValueError(f"{function}: outproj_bias needs outproj_weight")
    silu = _checks.uses_silu(function, activation)
    if rmsnorm_weight is not None:
        _checks.shape_is(function, "rmsnorm_weight", rmsnorm_weight, "dim", (sizes.dim,))
    dim, keys = sizes.dim, ngroups * sizes.dstate
    halves, z, xbc, dt = zxbcdt.split([2 * sizes.mlp, dim, dim + 2 * keys, sizes.nheads], dim=-1)

    def of_heads(xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = xbc.split([dim, keys, keys], dim=-1)
        groups = (ngroups, sizes.dstate)
        x = x.unflatten(2, (sizes.nheads, sizes.headdim))
        return x, B.unflatten(2, groups), C.unflatten(2, groups)

    if silu and seq_idx is None and initial_states is None and not return_final_states:
        # One operator, whose gradient of zxbcdt is not put together from parts.
        check_parameters(function, xbc.transpose(1, 2), conv1d_weight, conv1d_bias)
        x, B, C = of_heads(xbc)
        _check_scan(function, x, dt, A, B, C, chunk_size, D, None, dt_bias, None, None)
        _check_state_dtype(function, state_dtype)
        options = _options(function, True, dt_limit)
        batch, seqlen, _ = zxbcdt.shape
        compute = _checks.compute_dtype(zxbcdt)
        parameters = (A, D, dt_bias, conv1d_weight, conv1d_bias, rmsnorm_weight)
        A, D, dt_bias, conv1d_weight, conv1d_bias, rmsnorm_weight = (
            _checks.as_parameter(parameter, compute) for parameter in parameters
        )
        rows_in = zxbcdt[..., 2 * sizes.mlp :] if sizes.mlp > 0 else zxbcdt
        out = torch.ops.baton.mamba2_mixer(
            rows_in.flatten(0, 1).to(compute), conv1d_weight, conv1d_bias, A,
            rows.even_starts(batch, seqlen, zxbcdt.device), D, dt_bias, rmsnorm_weight, ngroups,
            rmsnorm_eps, dim // ngroups, not norm_before_gate, options.dt_min, options.dt_max,
        )  # fmt: skip
        out, final = out.view(batch, seqlen, dim).to(zxbcdt.dtype), None
    else:
        xbc = causal_conv1d_fn(
            xbc.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation=activation
        ).transpose(1, 2)
        x, B, C = of_heads(xbc)
        out, final = mamba_chunk_scan_combined(
            x, dt, A, B, C, chunk_size,
            D=D,
            z=z.unflatten(2, (sizes.nheads, sizes.headdim)) if rmsnorm_weight is None else None,
            dt_bias=dt_bias,
            initial_states=initial_states,
            seq_idx=seq_idx,
            dt_softplus=True,
            dt_limit=dt_limit,
            return_final_states=True,
            state_dtype=state_dtype,
        )  # fmt: skip
        out = out.flatten(2)
        if rmsnorm_weight is not None:
            out = rmsnorm_fn(
                out, rmsnorm_weight, None, z=z, eps=rmsnorm_eps, group_size=dim // ngroups,
                norm_before_gate=norm_before_gate,
            )  # fmt: skip
    if sizes.mlp > 0:
        compute = _checks.compute_dtype(halves)
        gated = torch.ops.baton.swiglu(halves.to(compute)).to(out.dtype)
        out = torch.cat([gated, out], dim=-1)
    if outproj_weight is not None:
        out = F.linear(out, outproj_weight, outproj_bias)
    return (out, final) if return_final_states else out


class _SplitSizes(NamedTuple):
    nheads: int
    headdim: int
    dim: int
    dstate: int
    mlp: int


def _split_sizes(
    function: str,
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    D: Tensor,
    headdim: int | None,
    ngroups: int,
) -> _SplitSizes:
    _checks.dims_are(function, "zxbcdt", zxbcdt, "batch, seqlen, channels")
    _checks.dims_are(function, "conv1d_weight", conv1d_weight, "dim + 2 ngroups dstate, width")
    if D.dim() == 1 and headdim is None:
        raise ValueError(f"{function}: headdim must be given with D of one dim")
    if D.dim() not in (1, 2):
        raise ValueError(
            f"{function}: D must have dims [nheads] or [nheads, headdim], got shape {list(D.shape)}"
        )
    nheads = D.shape[0]
    headdim = headdim if D.dim() == 1 else D.shape[1]
    dim = nheads * headdim
    if ngroups <= 0 or nheads % ngroups != 0:
        raise ValueError(
            f"{function}: nheads must be a multiple of ngroups, got {nheads} and {ngroups}"
        )
    keys = conv1d_weight.shape[0] - dim
    if keys <= 0 or keys % (2 * ngroups) != 0:
        raise ValueError(
            f"{function}: conv1d_weight must have dim + 2 ngroups dstate rows, got"
            f" {conv1d_weight.shape[0]} for dim {dim} and ngroups {ngroups}"
        )
    mlp = zxbcdt.shape[2] - 2 * dim - keys - nheads
    if mlp < 0 or mlp % 2 != 0:
        raise ValueError(
            f"{function}: zxbcdt must have 2 mlp + 2 dim + 2 ngroups dstate + nheads channels, got"
            f" {zxbcdt.shape[2]} for dim {dim}, 2 ngroups dstate {keys} and nheads {nheads}"
        )
    return _SplitSizes(nheads, headdim, dim, keys // (2 * ngroups), mlp // 2)
