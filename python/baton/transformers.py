# SPDX-License-Identifier: Apache-2.0
"""Importing this module makes transformers' hybrids run on Baton's kernels, on CPU and CUDA.

It concerns nemotron_h, mamba2, bamba and granitemoehybrid: the convolution, the scan, their forms
for one token, and the gated norm. Models made before and after the import are switched alike, with
their weights as they are, and compute what transformers' own torch path computes. One thing is
added: `seq_idx`, which that path ignores, keeps packed documents apart. `restore()` switches back,
`use()` on again.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any, Callable

from torch import Tensor, nn

from .conv import causal_conv1d_fn, causal_conv1d_update
from .norm import rmsnorm_fn
from .scan import mamba_chunk_scan_combined
from .update import selective_state_update

__all__ = ["FAMILIES", "restore", "use"]

FAMILIES = ("nemotron_h", "mamba2", "bamba", "granitemoehybrid")

_NORMS = {
    "nemotron_h": "Zamba2RMSNormGated",
    "mamba2": "MambaRMSNormGated",
    "bamba": "BambaRMSNormGated",
    "granitemoehybrid": "GraniteMoeHybridRMSNormGated",
}


def _taking(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the keywords that it does not know, which transformers passes along."""
    known = frozenset(inspect.signature(function).parameters)

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{key: value for key, value in kwargs.items() if key in known})

    called.__name__ = function.__name__
    called.__doc__ = function.__doc__
    return called


def _no_fused_path(*args: Any, **kwargs: Any) -> None:
    """Sends training through the convolution, the scan and the norm, as inference.

    The fused way of mamba_ssm takes the gated norm by groups, which transformers' torch path does
    in nemotron_h alone; and Baton's would be made of the same three.
    """
    return None


def _gated_norm(self: nn.Module, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
    """Takes the place of the forward method of a family's gated norm."""
    return rmsnorm_fn(
        hidden_states,
        self.weight,
        None,
        z=gate,
        eps=self.variance_epsilon,
        group_size=getattr(self, "group_size", None),
        norm_before_gate=False,
    )


_FUNCTIONS = {
    "causal_conv1d_fn": _taking(causal_conv1d_fn),
    "causal_conv1d_update": _taking(causal_conv1d_update),
    "mamba2_chunk_scan": _taking(mamba_chunk_scan_combined),
    "mamba2_selective_state_update": _taking(selective_state_update),
    "mamba2_split_conv1d_scan_combined": _no_fused_path,
}

_replaced: list[tuple[Any, str, Any]] = []


def _modeling(family: str) -> ModuleType:
    try:
        return importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError as error:
        raise ImportError(f"baton.transformers needs transformers with {family}: {error}") from error


def _places(family: str) -> list[tuple[Any, str, Any]]:
    """(object, attribute, what takes its place) of one family."""
    module = _modeling(family)
    missing = [name for name in (*_FUNCTIONS, _NORMS[family]) if not hasattr(module, name)]
    if missing:
        import transformers

        raise ImportError(
            f"baton.transformers does not know transformers {transformers.__version__}: its"
            f" {module.__name__} has no {missing[0]}; 5.17 has"
        )
    places = [(module, name, function) for name, function in _FUNCTIONS.items()]
    return [*places, (getattr(module, _NORMS[family]), "forward", _gated_norm)]


def use() -> None:
    """Switches all families to Baton. Nothing happens where they are switched already.

    Raises ImportError where transformers is missing or its code is not of the form that is known,
    and then changes nothing.
    """
    if _replaced:
        return
    # All are found before any is changed.
    places = [place for family in FAMILIES for place in _places(family)]
    for owner, name, replacement in places:
        _replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, replacement)


def restore() -> None:
    """Switches all families back to what transformers had."""
    while _replaced:
        owner, name, original = _replaced.pop()
        setattr(owner, name, original)


use()
