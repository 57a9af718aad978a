# SPDX-License-Identifier: Apache-2.0
"""The CUDA operators: on a GPU where there is one, else on the emulator (tests/emulator)."""

import importlib.util
import os
import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("BATON_BUILD", ROOT / "build"))


def emulated_library():
    spec = importlib.util.spec_from_file_location("build", ROOT / "tests/emulator/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(BUILD, ROOT / "build" / "emulated")


@pytest.fixture(scope="session")
def emulated():
    """Whether there is no GPU, so that sizes had better be small."""
    return not torch.cuda.is_available()


@pytest.fixture(scope="session")
def judge():
    """The operators on the CPU, for fp64 tensors."""
    library = os.environ.get("BATON_OPS_LIBRARY", BUILD / "baton" / "libbaton_ops.so")
    torch.ops.load_library(str(library))
    return torch.ops.baton


@pytest.fixture(scope="session")
def ops(judge, emulated):
    """The operators that are tested."""
    if not emulated:
        return judge
    torch.ops.load_library(str(emulated_library()))
    return torch.ops.baton_emulated


@pytest.fixture(scope="session")
def device(emulated):
    return "cpu" if emulated else "cuda"
