# SPDX-License-Identifier: Apache-2.0
"""Scripts of the repository that the documents name run and agree with what is committed."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["tests/golden/make_golden.py", "--check"],
        ["python/examples/scan.py"],
        ["python/examples/beside_mamba.py"],
        ["tools/bench_gpu", "--device", "cpu", "--small", "--only", "norm"],
    ],
    ids=["golden_file", "scan_example", "beside_mamba_example", "bench_gpu"],
)
def test_script_succeeds(command):
    run = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
