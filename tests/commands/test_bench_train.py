# SPDX-License-Identifier: Apache-2.0
"""tools/bench_train: its table, on CPU ranks and a tiny model."""

import os
import subprocess
import sys

import pytest

from conftest import PROGRAM, RECIPE, ROOT


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose data does not exist, since the tool makes its own; one head of attention."""
    path = tmp_path / "tiny.toml"
    text = RECIPE.format(folder=tmp_path).replace("num_heads = 4\nnum_kv_heads = 2",
                                                  "num_heads = 1\nnum_kv_heads = 1")
    path.write_text(text)
    return path


def bench(recipe, *arguments, code=0):
    environment = {**os.environ, "BATON_PROGRAM": PROGRAM, "OUT": str(recipe.parent / "logs"),
                   "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "tools/bench_train", "--device", "cpu", "--gpus", "2", "--recipe", recipe,
         "--steps", "4", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def rows(done):
    """Cells by data and mesh."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("| tiny |")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert all(len(each) == 11 for each in cells), done.stdout
    return {f"{each[1]} {each[2]}": each[3:] for each in cells}


def number(text):
    return float(text.replace(",", ""))


def test_a_row_for_each_mesh(recipe):
    words = ["mixed 1", "dp", "mixed cp", "tp", "pp 2 x 2", "long 1"]
    done = bench(recipe, *(word for each in words for word in ("--only", each)), code=1)
    found = rows(done)
    # One head of attention cannot be shared.
    line, *rest = found.pop("mixed tp 2")
    assert line.startswith("error: ") and "num_heads" in line and not any(rest)
    assert list(found) == ["mixed 1, fp32", "mixed 1", "long 1", "mixed dp 2", "mixed cp 2",
                           "mixed pp 2 x 2"]
    for cells in found.values():
        measured, planned, ratio, size, planned_size, size_ratio = map(number, cells[:6])
        assert ratio == pytest.approx(measured / planned, abs=0.006) and size > 0
        assert planned_size >= 1 and 0 <= size_ratio < 1
    assert not any(found["mixed 1, fp32"][6:]) and not any(found["long 1"][6:])
    assert number(found["mixed 1"][6]) > 0
    for mesh in ("dp 2", "cp 2", "pp 2 x 2"):
        for cell in found[f"mixed {mesh}"][6:]:
            assert cell.endswith(" times") and 0.2 < number(cell.split()[0]) < 5
    assert "6 runs in" in done.stdout and "1 failed" in done.stdout


def test_a_run_without_steps_is_killed(recipe):
    done = bench(recipe, "--only", "dp", "--run-seconds", 0.01, code=1)
    assert rows(done)["mixed dp 2"][0] == "killed: 0 steps, then none for 0.01 s"


def test_a_wrong_call_is_refused(recipe):
    assert "--gpus 100000" in bench(recipe, "--gpus", 100000, code=2).stderr
    assert "no row holds one of xp" in bench(recipe, "--only", "xp", code=2).stderr
    assert "cannot open" in bench(recipe.parent / "absent.toml", code=2).stderr
