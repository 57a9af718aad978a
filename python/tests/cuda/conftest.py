# SPDX-License-Identifier: Apache-2.0
"""The CUDA operators: on a GPU where there is one, else on the emulator (tests/emulator).

BATON_REQUIRE_GPU=1 ends a run that would have to emulate. BATON_SMALL_TESTS=n is for tools that slow
a GPU down: sizes as for the emulator, and n cases of each test, which differ in all that they can.
BATON_TEST_SECONDS ends a run in good order after the test that goes beyond.
"""

import collections
import importlib.util
import os
import pathlib
import time

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("BATON_BUILD", ROOT / "build"))
SMALL_TESTS = int(os.environ.get("BATON_SMALL_TESTS", 0))
ON_GPU = torch.cuda.is_available()
SECONDS = float(os.environ.get("BATON_TEST_SECONDS", "inf"))
BEGAN = time.monotonic()


def pytest_configure():
    if os.environ.get("BATON_REQUIRE_GPU") and not ON_GPU:
        pytest.exit("no GPU, and BATON_REQUIRE_GPU forbids to emulate one", returncode=2)


@pytest.fixture(autouse=True)
def within_time(request):
    yield
    if time.monotonic() - BEGAN > SECONDS:
        request.session.shouldstop = f"after {SECONDS:.0f} s"


def unlike_cases(cases, count):
    """Some cases of a test, each with as many values as possible that none before it had; the last
    ones first, since the first are often those of nothing at all."""
    values = {case: set() for case in cases}
    for case in cases:
        if hasattr(case, "callspec"):
            values[case] = {(name, repr(value)) for name, value in case.callspec.params.items()}
    chosen, seen = [], set()
    while len(chosen) < min(count, len(cases)):
        left = [case for case in reversed(cases) if case not in chosen]
        chosen.append(max(left, key=lambda case: len(values[case] - seen)))
        seen |= values[chosen[-1]]
    return chosen


def pytest_collection_modifyitems(config, items):
    """Emulated, the tests are those of minutes. BATON_SMALL_TESTS keeps so many cases of each test."""
    mine = [item for item in items if pathlib.Path(__file__).parent in item.path.parents]
    if not ON_GPU:
        for item in mine:
            item.add_marker(pytest.mark.long)
    if not SMALL_TESTS:
        return
    tests = collections.defaultdict(list)
    for item in mine:
        tests[item.path, item.originalname].append(item)
    kept = {case for cases in tests.values() for case in unlike_cases(cases, SMALL_TESTS)}
    dropped = [item for item in mine if item not in kept]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


def emulated_library():
    spec = importlib.util.spec_from_file_location("build", ROOT / "tests/emulator/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(BUILD, ROOT / "build" / "emulated")


@pytest.fixture(scope="session")
def emulated():
    """Whether kernels run slowly, on the emulator or under a tool, so that sizes should be small."""
    return not ON_GPU or SMALL_TESTS > 0


@pytest.fixture(scope="session")
def judge():
    """The operators on the CPU, for fp64 tensors."""
    library = os.environ.get("BATON_OPS_LIBRARY", BUILD / "baton" / "libbaton_ops.so")
    torch.ops.load_library(str(library))
    return torch.ops.baton


@pytest.fixture(scope="session")
def ops(judge):
    """The operators that are tested."""
    if ON_GPU:
        return judge
    torch.ops.load_library(str(emulated_library()))
    return torch.ops.baton_emulated


@pytest.fixture(scope="session")
def device():
    return "cuda" if ON_GPU else "cpu"
