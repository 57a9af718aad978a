# SPDX-License-Identifier: Apache-2.0
"""Kills, full disks and long runs: no checkpoint is ever lost, no loss ever differs by a bit."""

import errno
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from conftest import PROGRAM, baton, losses, refused

KILLS = 50
QUIET = dict(os.environ, BATON_LOG="error", BATON_PROGRESS="off")


def start(recipe, *settings):
    return subprocess.Popen(
        [PROGRAM, "train", str(recipe), *(word for s in settings for word in ("--set", s))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process, seconds=60):
    deadline = time.time() + seconds
    while not condition() and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.0005)


def names(folder):
    return set(os.listdir(folder)) if folder.exists() else set()


def expect_whole_checkpoint(run):
    """The newest checkpoint, if one was made, loads, and no damage was noticed."""
    if any(name.startswith("step_") for name in names(run / "checkpoints")):
        assert baton("logits", run, "--tokens", "1,2,3", "--out", run / "logits.safetensors").stderr == ""


def test_fifty_kills_while_training_and_saving(recipe, tmp_path):
    settings = ["train.steps=100000", "train.schedule=constant", "train.eval_interval=0",
                "checkpoint.interval=1"]
    draw = random.Random(11)
    run = tmp_path / "run"
    saves_hit = 0
    for kill in range(KILLS):
        process = start(recipe, *settings)
        before = names(run / "checkpoints")
        wait_until(lambda: names(run / "checkpoints") != before, process)
        if kill % 2 == 0:
            time.sleep(draw.uniform(0.0, 0.4))
        else:  # a name that is no checkpoint's shows that a save is under way
            wait_until(
                lambda: any(not n.startswith("step_") for n in names(run / "checkpoints")), process
            )
            time.sleep(draw.uniform(0.0, 0.002))
        assert process.poll() is None, process.stderr.read()
        process.kill()
        _, messages = process.communicate()
        assert "error" not in messages and "warning" not in messages, messages
        saves_hit += any(name.startswith(".") for name in names(run / "checkpoints"))
        expect_whole_checkpoint(run)
    assert saves_hit > KILLS // 10
    settings[0] = f"train.steps={max(losses(run)) + 20}"
    baton("train", recipe, *(word for s in settings for word in ("--set", s)))
    straight = tmp_path / "straight"
    baton("train", recipe, *(word for s in settings for word in ("--set", s)),
          "--set", f"run.folder={straight}", "--set", "checkpoint.interval=0")
    assert losses(run) == losses(straight)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_run_with_a_checkpoint(recipe, tmp_path, sent):
    run = tmp_path / "run"
    process = start(recipe, "checkpoint.interval=0", "train.steps=100000")
    wait_until(lambda: (run / "metrics.jsonl").exists() and len(losses(run)) > 3, process)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == 0
    step = max(losses(run))
    assert any(name.startswith("step_") and int(name[5:]) == step
               for name in names(run / "checkpoints"))
    expect_whole_checkpoint(run)


def limit_files(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_on_file_sizes_keeps_the_checkpoint_before(recipe, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = names(run / "checkpoints")
    more = ["train", recipe, "--set", "train.steps=16"]
    message = refused(*more, code=1, env=QUIET, preexec_fn=limit_files(20000))
    assert "checkpoints" in message and "File too large" in message
    assert names(run / "checkpoints") == before
    expect_whole_checkpoint(run)
    baton(*more)
    assert max(losses(run)) == 16


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 12, 15, 18])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_keeps_the_checkpoint_before(
        recipe, trained, tmp_path, fail_writes, after, reason):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    environment = dict(QUIET, LD_PRELOAD=str(fail_writes), FAIL_FOLDER=f"{run}/checkpoints/",
                       FAIL_AFTER=str(after), FAIL_ERROR=str(reason))
    more = ["train", recipe, "--set", "train.steps=16", "--set", "train.eval_interval=0"]
    message = refused(*more, code=1, env=environment)
    assert str(run) in message and os.strerror(reason) in message
    expect_whole_checkpoint(run)
    baton(*more)
    straight = tmp_path / "straight"
    shutil.copytree(trained, straight)
    baton(*more, "--set", f"run.folder={straight}")
    assert losses(run) == losses(straight)


def memory_of(process):
    """Resident kilobytes of a process."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


@pytest.mark.long
def test_memory_stays_flat_over_many_steps(recipe, tmp_path):
    """As many steps as the demo's model makes in an hour, with evaluations and checkpoints."""
    run = tmp_path / "run"
    process = start(recipe, "train.steps=3600", "train.eval_interval=50", "checkpoint.interval=50")
    seen = {}
    def sample():
        step = max(losses(run), default=0) if (run / "metrics.jsonl").exists() else 0
        seen[step] = memory_of(process)
        time.sleep(0.2)
        return False
    wait_until(sample, process, seconds=900)
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    early = max(memory for step, memory in seen.items() if 300 <= step < 900)
    late = max(memory for step, memory in seen.items() if step >= 3000)
    assert late - early < 4096, (early, late)
