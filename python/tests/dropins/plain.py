# SPDX-License-Identifier: Apache-2.0
"""What the drop-ins should compute, token by token from the formulas, in the dtype of the arguments.

Everything is made of differentiable operations, so that gradients can be compared as well.
"""

import math

import torch
import torch.nn.functional as F


def documents(seq_idx, batch, seqlen):
    """(row, begin, end) of every run of equal numbers; one a row without seq_idx."""
    found = []
    for row in range(batch):
        cuts = [0]
        for t in range(1, seqlen):
            if seq_idx is not None and seq_idx[row, t] != seq_idx[row, t - 1]:
                cuts.append(t)
        found += [(row, a, b) for a, b in zip(cuts, cuts[1:] + [seqlen])]
    return found


def time_steps(dt, dt_bias, softplus, limit):
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if softplus else dt
    return dt.clamp(limit[0], limit[1])


def scan(
    x, dt, A, B, C, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None,
    dt_softplus=False, dt_limit=(0.0, math.inf),
):  # fmt: skip
    """(out, the state behind each row, the state behind each document)."""
    batch, seqlen, nheads, headdim = x.shape
    repeats = nheads // B.shape[2]
    dt = time_steps(dt, dt_bias, dt_softplus, dt_limit)
    out = [[None] * seqlen for _ in range(batch)]
    last, behind = [None] * batch, []
    for row, begin, end in documents(seq_idx, batch, seqlen):
        h = x.new_zeros(nheads, headdim, B.shape[3])
        belongs = begin == 0 and (seq_idx is None or seq_idx[row, 0] == 0)
        if initial_states is not None and belongs:
            h = initial_states[row]
        for t in range(begin, end):
            decay = torch.exp(dt[row, t] * A)[:, None, None]
            key = B[row, t].repeat_interleave(repeats, 0)
            query = C[row, t].repeat_interleave(repeats, 0)
            h = decay * h + (dt[row, t, :, None] * x[row, t])[:, :, None] * key[:, None, :]
            out[row][t] = (h * query[:, None, :]).sum(-1)
        last[row] = h
        behind.append(h)
    out = torch.stack([torch.stack(tokens) for tokens in out]) if seqlen else torch.zeros_like(x)
    if D is not None:
        out = out + x * (D[:, None] if D.dim() == 1 else D)
    if z is not None:
        out = out * F.silu(z)
    return out, torch.stack(last) if seqlen else initial_states, behind


def convolution(x, weight, bias=None, seq_idx=None, initial_states=None, silu=False):
    """(out [batch, dim, seqlen], the last width - 1 inputs of each row)."""
    batch, dim, seqlen = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, dim, width - 1) if initial_states is None else initial_states
    inputs = torch.cat([before, x], -1)
    out = []
    for t in range(seqlen):
        terms = []
        for k in range(width):
            source = t - width + 1 + k
            term = weight[:, k] * inputs[:, :, source + width - 1]
            if seq_idx is not None:
                same = [source >= 0 and bool(seq_idx[b, source] == seq_idx[b, t]) for b in range(batch)]
                term = term * torch.tensor(same, dtype=x.dtype, device=x.device)[:, None]
            terms.append(term)
        y = sum(terms) + (0 if bias is None else bias)
        y = F.silu(y) if silu else y
        if seq_idx is not None:
            y = y * (seq_idx[:, t, None] >= 0).to(x.dtype)
        out.append(y)
    final = inputs[:, :, inputs.shape[2] - (width - 1) :]
    return torch.stack(out, -1) if out else x.new_zeros(batch, dim, 0), final


def norm(
    x, weight, bias=None, z=None, eps=1e-6, group_size=None, norm_before_gate=True, centred=False
):
    group = x.shape[-1] if group_size is None else group_size
    y = x if z is None or norm_before_gate else x * F.silu(z)
    groups = y.reshape(*y.shape[:-1], -1, group)
    groups = groups - groups.mean(-1, keepdim=True) if centred else groups
    y = (groups / torch.sqrt(groups.square().mean(-1, keepdim=True) + eps)).reshape(y.shape)
    y = y * weight if bias is None else y * weight + bias
    return y * F.silu(z) if z is not None and norm_before_gate else y


def state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """(out, the new state), all with a dim of heads."""
    repeats = state.shape[1] // B.shape[1]
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    key = B.repeat_interleave(repeats, 1)[:, :, None, :]
    query = C.repeat_interleave(repeats, 1)[:, :, None, :]
    state = torch.exp(dt[..., None] * A) * state + dt[..., None] * x[..., None] * key
    out = (state * query).sum(-1)
    out = out if D is None else out + D * x
    return out if z is None else out * F.silu(z), state
