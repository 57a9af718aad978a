# SPDX-License-Identifier: Apache-2.0
"""The gated norms under mamba_ssm's names and signatures, on CPU and CUDA.

Statistics are fp32 (fp64 for fp64); fp16 is computed in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _checks

__all__ = ["LayerNormGated", "RMSNormGated", "layernorm_fn", "rmsnorm_fn"]


def _check(
    function: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    group_size: int | None,
) -> int:
    """Checks the arguments and returns the size of a group."""
    if x.dim() == 0:
        raise ValueError(f"{function}: x must have a dim of channels")
    channels = x.shape[-1]
    _checks.is_floating(function, "x", x)
    _checks.shape_is(function, "weight", weight, "channels", (channels,))
    if bias is not None:
        _checks.shape_is(function, "bias", bias, "channels", (channels,))
    if z is not None:
        _checks.shape_is(function, "z", z, "..., channels", x.shape)
    group = channels if group_size is None else group_size
    if group <= 0 or channels % group != 0:
        raise ValueError(
            f"{function}: the channels must be a multiple of group_size, got {channels} and {group}"
        )
    _checks.same_device(function, x, weight=weight, bias=bias, z=z)
    return group


def _gate(y: Tensor, z: Tensor | None) -> Tensor:
    return y if z is None else torch.ops.baton.gated_norm(y, z, None, 0.0, 1, True)


def _rms(x: Tensor, weight: Tensor, eps: float, group: int) -> Tensor:
    if group == x.shape[-1]:
        return torch.ops.baton.rms_norm(x, weight, eps)
    groups = x.unflatten(-1, (-1, group))
    return torch.ops.baton.rms_norm(groups, x.new_ones(group), eps).flatten(-2) * weight


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """norm(x) weight + bias, gated: the norm of x silu(z), or silu(z) times the norm of x.

    Args:
        x: [..., channels].
        weight: [channels]; bias: [channels] or None.
        z: like x, or None for no gate.
        eps: added to the mean square.
        group_size: channels that share a mean square; all of them if None.
        norm_before_gate: True for norm(x) silu(z), False for norm(x silu(z)).

    Returns:
        A tensor like x. Differentiable in x, weight, bias and z.

    Raises:
        ValueError, with the argument and the rule.
    """
    group = _check("rmsnorm_fn", x, weight, bias, z, group_size)
    compute = _checks.compute_dtype(x)
    y = x.to(compute)
    gate = None if z is None else z.to(compute)
    weight = _checks.as_parameter(weight, compute)
    if gate is not None and bias is None:
        y = torch.ops.baton.gated_norm(y, gate, weight, eps, group, not norm_before_gate)
    elif norm_before_gate:
        y = _rms(y, weight, eps, group)
        y = _gate(y if bias is None else (y + bias).to(compute), gate)
    else:
        y = _rms(_gate(y, gate), weight, eps, group)
        y = y if bias is None else y + bias
    return y.to(x.dtype)


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """As `rmsnorm_fn`, but with the mean of each group taken off first, unless `is_rms_norm`.

    Arguments, results and errors are those of `rmsnorm_fn`.
    """
    if is_rms_norm:
        return rmsnorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate)
    group = _check("layernorm_fn", x, weight, bias, z, group_size)
    compute = _checks.compute_dtype(x)
    sums = _checks.state_dtype(compute)
    gate = None if z is None else z.to(sums)
    y = x.to(sums)
    y = y if norm_before_gate else _gate(y, gate)
    y = F.layer_norm(y.unflatten(-1, (-1, group)), (group,), eps=eps).flatten(-2)
    y = y * weight.to(sums)
    y = y if bias is None else y + bias.to(sums)
    return (_gate(y, gate) if norm_before_gate else y).to(x.dtype)


class RMSNormGated(nn.Module):
    """`rmsnorm_fn` with a weight of its own, ones at the start; no bias.

    Args:
        hidden_size: the channels.
        eps, group_size, norm_before_gate: as in `rmsnorm_fn`.
        device, dtype: of the weight.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.group_size = group_size
        self.norm_before_gate = norm_before_gate
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x and z: [..., hidden_size]. Returns a tensor like x."""
        return rmsnorm_fn(
            x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate
        )


class LayerNormGated(RMSNormGated):
    """`layernorm_fn` with a weight and a bias of its own; arguments as of `RMSNormGated`."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, eps, group_size, norm_before_gate, device, dtype)
        self.bias = nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x and z: [..., hidden_size]. Returns a tensor like x."""
        return layernorm_fn(
            x, self.weight, self.bias, z, self.eps, self.group_size, self.norm_before_gate
        )
