# SPDX-License-Identifier: Apache-2.0
"""The package finds its library, says clearly when it does not, and every operator is checked."""

import inspect
import os
import pathlib
import re
import subprocess
import sys
import typing

import baton
import pytest
from baton import _library

TESTS = pathlib.Path(__file__).resolve().parent
PACKAGE = TESTS.parent


def import_in_a_new_process(**environment):
    return subprocess.run(
        [sys.executable, "-c", "import baton; print(len(baton.operators()))"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), **environment},
        capture_output=True,
        text=True,
    )


def test_loads_the_library_that_the_variable_names():
    run = import_in_a_new_process(BATON_OPS_LIBRARY=str(baton.library_path()))
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == len(baton.operators())


def test_a_missing_library_is_one_clear_line():
    run = import_in_a_new_process(BATON_OPS_LIBRARY="/nowhere/libbaton_ops.so")
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "ImportError: BATON_OPS_LIBRARY names no file: /nowhere/libbaton_ops.so"
    )


def test_a_file_that_is_no_library_is_one_clear_line(tmp_path):
    broken = tmp_path / "libbaton_ops.so"
    broken.write_text("no library")
    run = import_in_a_new_process(BATON_OPS_LIBRARY=str(broken))
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {broken} does not load into torch")


def test_searches_beside_the_package_and_in_the_build_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("BATON_OPS_LIBRARY", raising=False)
    package = tmp_path / "python" / "baton"
    package.mkdir(parents=True)
    monkeypatch.setattr(_library, "__file__", str(package / "_library.py"))
    with pytest.raises(ImportError, match="libbaton_ops.so not found at .*make build"):
        baton.library_path()
    built = tmp_path / "build" / "baton" / "libbaton_ops.so"
    built.parent.mkdir(parents=True)
    built.touch()
    assert baton.library_path() == built
    beside = package / "libbaton_ops.so"
    beside.touch()
    assert baton.library_path() == beside


def test_a_wheel_refuses_another_torch_in_one_line(monkeypatch):
    monkeypatch.setattr(_library, "built_for", lambda: "2.11.0+cu130")
    for version in ("2.11.0", "2.11.3+cpu"):
        monkeypatch.setattr(_library.torch, "__version__", version)
        _library.check_torch()
    monkeypatch.setattr(_library.torch, "__version__", "2.10.0+cu126")
    with pytest.raises(ImportError) as caught:
        _library.check_torch()
    assert str(caught.value) == (
        "this baton was made for torch 2.11 and cannot be loaded into torch 2.10.0+cu126:"
        " pip install 'torch==2.11.*'"
    )


def test_every_public_function_has_hints_and_a_docstring():
    for name in baton.__all__:
        member = getattr(baton, name)
        if inspect.isfunction(member):
            hints = typing.get_type_hints(member)
            assert set(hints) == {*inspect.signature(member).parameters, "return"}, name
            assert len(inspect.getdoc(member)) > 40, name


def test_the_package_documents_every_operator():
    documented = set(re.findall(r"\w+", baton.__doc__))
    # Backward operators are named with their forward ones only where they stand on their own.
    missing = [
        name
        for name in baton.operators()
        if name not in documented and not name.endswith("_backward")
    ]
    assert not missing


def test_the_page_of_operators_holds_every_schema():
    page = (PACKAGE.parent / "docs" / "operators.md").read_text()
    schemas = [str(getattr(baton.ops, name).default._schema) for name in baton.operators()]
    assert not [schema for schema in schemas if f"\n    {schema}\n\n" not in page]
    assert page.count("\n    baton::") == len(schemas)


def test_every_operator_has_an_opcheck():
    sources = [path.read_text() for path in TESTS.glob("test_*_opcheck.py")]
    checked = set(re.findall(r"\w+", " ".join(sources)))
    missing = [name for name in baton.operators() if name not in checked]
    assert not missing
