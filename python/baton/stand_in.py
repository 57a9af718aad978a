# SPDX-License-Identifier: Apache-2.0
"""Puts the drop-ins where programs look for mamba_ssm and causal_conv1d."""

from __future__ import annotations

import importlib.util
import sys
import types

from . import conv, norm, scan, update

__all__ = ["install", "remove"]

_CONV = {name: getattr(conv, name) for name in conv.__all__}
_MODULES = {
    "causal_conv1d": _CONV,
    "causal_conv1d.causal_conv1d_interface": _CONV,
    "causal_conv1d.causal_conv1d_varlen": _CONV,
    "mamba_ssm": {},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.layernorm_gated": {
        "LayerNorm": norm.LayerNormGated,
        "RMSNorm": norm.RMSNormGated,
        "layernorm_fn": norm.layernorm_fn,
        "rmsnorm_fn": norm.rmsnorm_fn,
    },
    "mamba_ssm.ops.triton.selective_state_update": {
        "selective_state_update": update.selective_state_update
    },
    "mamba_ssm.ops.triton.ssd_combined": {
        "mamba_chunk_scan_combined": scan.mamba_chunk_scan_combined,
        "mamba_split_conv1d_scan_combined": scan.mamba_split_conv1d_scan_combined,
    },
}


def _is_ours(module: types.ModuleType) -> bool:
    return getattr(module, "__baton__", False)


def install() -> None:
    """Registers modules of these names, each with the functions that Baton has.

    A program that imports ``mamba_ssm.ops.triton.ssd_combined`` afterwards gets Baton's. Raises
    ImportError where the real packages are installed, which it does not replace.
    """
    for package in ("mamba_ssm", "causal_conv1d"):
        loaded = sys.modules.get(package)
        present = loaded if loaded is not None else importlib.util.find_spec(package)
        if present is not None and not (loaded is not None and _is_ours(loaded)):
            raise ImportError(f"{package} itself is installed, so Baton does not stand in for it")
    for name, members in _MODULES.items():
        module = types.ModuleType(name, f"Baton's functions under the names of {name}.")
        module.__baton__ = True
        module.__path__ = []  # a package, so that what is below can be imported
        # Programs look for the package by its spec before they import it.
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        module.__dict__.update(members)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def remove() -> None:
    """Takes back what `install` registered."""
    for name in _MODULES:
        if name in sys.modules and _is_ours(sys.modules[name]):
            del sys.modules[name]
