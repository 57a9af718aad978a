# SPDX-License-Identifier: Apache-2.0
"""Where torch is, and how the programs of .gpu/, which tools/pack_gpu filled, find it."""

import importlib.util
import os
import pathlib

PACK = pathlib.Path(__file__).resolve().parents[2] / ".gpu"


class Missing(Exception):
    """What a packed build needs and this machine lacks, in one line."""


def torch_root():
    named = os.environ.get("TORCH_ROOT")
    if named:
        return pathlib.Path(named)
    torch = importlib.util.find_spec("torch")
    if torch is None:
        raise Missing("python3 finds no torch: set TORCH_ROOT=<site-packages>/torch")
    return pathlib.Path(torch.submodule_search_locations[0])


def environment(torch):
    """Variables with which programs run the packed build on the torch in this folder."""
    if not (PACK / "lib" / "libbaton_ops.so").exists():
        raise Missing("no .gpu/ here: run tools/pack_gpu where the build is")
    folders = [torch / "lib", *sorted(torch.parent.glob("nvidia/*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        "BATON_OPS_LIBRARY": str(PACK / "lib" / "libbaton_ops.so"),
        "BATON_PROGRAM": str(PACK / "bin" / "baton"),
        "BATON_KERNEL_CACHE": str(PACK / "kernels"),
        "LD_LIBRARY_PATH": ":".join([*map(str, folders), *([before] if before else [])]),
    }
