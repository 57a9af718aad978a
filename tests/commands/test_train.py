# SPDX-License-Identifier: Apache-2.0
"""baton train: metrics, exact resume, signals, bad input."""

import math
import os
import random
import shutil
import signal
import subprocess
import time

from conftest import PROGRAM, baton, losses, metrics, refused


def test_writes_metrics_and_curve(trained):
    lines = metrics(trained)
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:
        assert {"step", "loss", "lr", "grad_norm", "tokens_per_second"} <= line.keys()
        assert math.isfinite(line["loss"])
    assert "valid_loss" in lines[5] and "valid_loss" in lines[11]
    assert (trained / "loss.svg").read_text().lstrip().startswith("<")
    assert any("tfevents" in name for _, _, names in os.walk(trained) for name in names)


def test_learns(recipe, tmp_path):
    baton("train", recipe, "--set", "train.steps=60")
    curve = losses(tmp_path / "run")
    assert curve[60] < 0.75 * curve[1]


def test_threads_do_not_change_a_bit(recipe, trained, tmp_path):
    baton("train", recipe, "--set", "run.threads=2")
    assert losses(tmp_path / "run") == losses(trained)


def test_killed_runs_resume_to_the_bit(recipe, trained, tmp_path):
    draw = random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            [PROGRAM, "train", str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.05, 0.8))
        process.kill()
        process.wait()
    baton("train", recipe)
    assert losses(tmp_path / "run") == losses(trained)


def test_sigterm_saves_and_a_resume_goes_on(recipe, trained, tmp_path):
    process = subprocess.Popen(
        [PROGRAM, "train", str(recipe), "--set", "checkpoint.interval=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder = tmp_path / "run"
    deadline = time.time() + 60
    while not (folder / "metrics.jsonl").exists() or not losses(folder):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "steps" in output
    baton("train", recipe, "--resume", "must")
    assert losses(folder) == losses(trained)


def test_resume_modes(recipe, trained, tmp_path):
    assert "holds no checkpoint" in refused("train", recipe, "--resume", "must")
    shutil.copytree(trained, tmp_path / "run")
    assert "already holds a checkpoint" in refused("train", recipe, "--resume", "never")


def test_a_damaged_newest_checkpoint_is_reported_and_passed_over(recipe, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    victim = next(newest.glob("parameters*.safetensors"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.write_bytes(content)
    result = baton("train", recipe)
    assert newest.name in result.stderr
    assert losses(folder) == losses(trained)


def test_bad_recipes_get_one_line(recipe, tmp_path):
    assert "did you mean 'train.lr'" in refused("train", recipe, "--set", "train.lrr=1")
    assert "train.steps" in refused("train", recipe, "--set", "train.steps=many")
    assert "tokens_per_step" in refused("train", recipe, "--set", "train.tokens_per_step=100")
    assert "nowhere" in refused("train", recipe, "--set", f"data.train={tmp_path}/nowhere")
    assert "num_groups" in refused("train", recipe, "--set", "model.mamba.num_groups=3")
    assert "pattern" in refused("train", recipe, "--set", "model.pattern=MXM")
    assert "cannot be built yet" in refused("train", recipe, "--set", "model.pattern=MEM")
    assert "no_such" in refused("train", tmp_path / "no_such.toml")


def test_a_loss_that_is_not_finite_stops_the_run(recipe):
    result = baton("train", recipe, "--set", "train.lr=1e30", "--set", "train.clip_norm=0",
                   "--set", "train.warmup_steps=0", code=1)
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: step ")
