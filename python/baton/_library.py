# SPDX-License-Identifier: Apache-2.0
"""Finds the operator library, checks that it was made for this torch, and loads it."""

from __future__ import annotations

import importlib.util
import os
import pathlib

try:
    import torch
except ImportError as error:
    raise ImportError(f"baton needs torch: {error}") from error

NAME = "libbaton_ops.so"
VARIABLE = "BATON_OPS_LIBRARY"


def library_path() -> pathlib.Path:
    """The operator library: $BATON_OPS_LIBRARY, or beside this package, or in build/baton.

    Raises ImportError with one line that says where it was looked for.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not pathlib.Path(named).is_file():
            raise ImportError(f"{VARIABLE} names no file: {named}")
        return pathlib.Path(named).resolve()
    package = pathlib.Path(__file__).resolve().parent
    candidates = [package / NAME, package.parent.parent / "build" / "baton" / NAME]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise ImportError(
        f"{NAME} not found at {looked}; run `make build`, or set {VARIABLE} to its path"
    )


def built_for() -> str | None:
    """The torch that a wheel's library was made with; None in a source tree, which says nothing."""
    if importlib.util.find_spec("baton._build") is None:
        return None
    from . import _build

    return _build.TORCH


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def check_torch() -> None:
    """Raises ImportError unless torch has the first two numbers of the one this wheel was made for.

    C++ code that uses torch's classes holds their layouts, which change with every 2.N.
    """
    wanted = built_for()
    if wanted is not None and _release(wanted) != _release(torch.__version__):
        release = ".".join(_release(wanted))
        raise ImportError(
            f"this baton was made for torch {release} and cannot be loaded into torch"
            f" {torch.__version__}: pip install 'torch=={release}.*'"
        )


def load() -> None:
    """Loads the library, which registers the operators, unless it is loaded already."""
    path = library_path()
    check_torch()
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ImportError(
            f"{path} does not load into torch {torch.__version__}: {reason}"
        ) from error
