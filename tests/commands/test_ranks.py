# SPDX-License-Identifier: Apache-2.0
"""baton train on several ranks: the same numbers as on one, and failures that are told."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import PROGRAM, RECIPE, ROOT, baton, losses, metrics, refused

TORCHRUN = os.environ.get("BATON_TORCHRUN", str(ROOT / ".venv-python" / "bin" / "torchrun"))
QUIET = dict(os.environ, BATON_PROGRESS="off", OMP_NUM_THREADS="1")
# Sums of the same numbers in another order, in fp32, over a few steps.
ROUNDING = 2e-5
SAME = ["train.deterministic_reduce=true"]
SMALL = ["train.tokens_per_step=384", "train.steps=6", "checkpoint.interval=3",
         "parallel.check_interval=1"]


def settings(*values):
    return [word for value in values for word in ("--set", value)]


def launch(ranks, recipe, *values, **options):
    """Starts torchrun, which starts the ranks."""
    command = [TORCHRUN, "--no-python", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", PROGRAM, "train", str(recipe), *settings(*values)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=QUIET, **options)


def train(ranks, recipe, *values, code=0):
    """Trains on so many ranks; stdout and the program's own lines of stderr."""
    if ranks == 1:
        result = baton("train", recipe, *settings(*values), env=QUIET, code=code)
        return result.stdout, result.stderr
    process = launch(ranks, recipe, *values)
    output, messages = process.communicate(timeout=120)
    assert process.returncode == code, messages
    return output, messages


def start(rank, ranks, port, recipe, *values, cwd=None, **more):
    """Starts one rank by hand, as any launcher does that sets torchrun's variables."""
    environment = {**QUIET, "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **more}
    return subprocess.Popen([PROGRAM, "train", str(recipe), *settings(*values)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def errors(messages):
    return [line for line in messages.splitlines() if line.startswith("error: ")]


def logits(run):
    out = run / "logits.safetensors"
    baton("logits", run, "--tokens", "1,2,3,200,5", "--out", out)
    return out.read_bytes()


def numbers(run):
    """Losses, norms and held-out losses of all steps."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in metrics(run)]


def close(a, b):
    return a.keys() == b.keys() and all(abs(a[s] - b[s]) <= ROUNDING * abs(a[s]) for s in a)


@pytest.fixture(scope="module")
def one_rank(corpus, tmp_path_factory):
    """Run folders of one rank: of plain sums and of sums that are the same on any ranks."""
    folder = tmp_path_factory.mktemp("one_rank")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=corpus).replace(f"{corpus}/run", f"{folder}/run"))
    for name, more in (("plain", []), ("same", SAME)):
        train(1, recipe, *SMALL, *more, f"run.folder={folder}/{name}")
    return folder


def test_two_ranks_learn_what_one_learns(recipe, one_rank, tmp_path):
    output, messages = train(2, recipe, *SMALL)
    run = tmp_path / "run"
    assert close(losses(one_rank / "plain"), losses(run))
    assert output.count("complete after 6 of 6 steps") == 1
    assert messages.count("parameters in fp32") == 1 and "rank 1" not in messages
    files = sorted(p.name for p in (run / "checkpoints" / "step_00000006").iterdir())
    assert "optimizer-00000.safetensors" in files and "optimizer-00001.safetensors" in files


SHARES = {
    "baton": ["parallel.cp=2"],
    "ring": ["parallel.cp=2", "parallel.attention=ring"],
    "all_to_all": ["parallel.cp=2", "parallel.context=all_to_all"],
}


@pytest.mark.parametrize("ranks, share", [(2, "baton"), (2, "ring"), (2, "all_to_all"), (4, "baton")])
def test_ranks_share_the_tokens(recipe, one_rank, tmp_path, ranks, share):
    _, messages = train(ranks, recipe, *SMALL, *SHARES[share], "train.eval_interval=3")
    imbalance = re.findall(r"the busiest cp rank had (\d\.\d+) times the mean work", messages)
    assert len(imbalance) == (0 if share == "all_to_all" else 1)
    assert close(losses(one_rank / "plain"), losses(tmp_path / "run"))


@pytest.mark.parametrize("ranks", [2, 4])
def test_equal_bits_on_any_number_of_ranks(recipe, one_rank, tmp_path, ranks):
    train(ranks, recipe, *SMALL, *SAME)
    run, one = tmp_path / "run", one_rank / "same"
    assert numbers(run) == numbers(one)
    assert logits(run) == logits(one)


def test_a_run_goes_on_with_other_ranks(recipe, one_rank, tmp_path):
    for ranks, steps in ((2, 2), (1, 3), (4, 5), (2, 6)):
        train(ranks, recipe, *SMALL, *SAME, f"train.steps={steps}", "train.schedule=constant")
    one = tmp_path / "one"
    train(1, recipe, *SMALL, *SAME, "train.schedule=constant", f"run.folder={one}")
    assert losses(tmp_path / "run").keys() == losses(one).keys()
    assert logits(tmp_path / "run") == logits(one)


def wait_for_steps(run, process, count=2):
    deadline = time.time() + 60
    while not (run / "metrics.jsonl").exists() or len(losses(run)) < count:
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.01)


LONG = ["train.steps=100000", "train.schedule=constant", "train.eval_interval=0",
        "checkpoint.interval=2"]


def test_a_killed_rank_is_named_and_the_checkpoint_is_whole(recipe, tmp_path):
    port, run = free_port(), tmp_path / "run"
    ranks = [start(rank, 2, port, recipe, *LONG, "parallel.timeout=20") for rank in range(2)]
    wait_for_steps(run, ranks[0], 4)
    ranks[1].kill()
    begin = time.time()
    _, messages = ranks[0].communicate(timeout=60)
    assert time.time() - begin < 20
    assert ranks[0].returncode == 1
    assert len(errors(messages)) == 1 and "rank 1 is gone" in errors(messages)[0], messages
    ranks[1].communicate()
    steps = max(losses(run)) + 2
    baton("train", recipe, *settings(*LONG), *settings(f"train.steps={steps}"), "--resume", "must",
          env=QUIET)


def test_a_stop_of_one_rank_stops_all_at_one_step(recipe, tmp_path):
    port, run = free_port(), tmp_path / "run"
    ranks = [start(rank, 2, port, recipe, *LONG, "checkpoint.interval=0") for rank in range(2)]
    wait_for_steps(run, ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    step = max(losses(run))
    assert f"stopped after {step} of" in outputs[0][0] and outputs[1][0] == ""
    assert (run / "checkpoints" / f"step_{step:08}").is_dir()


def test_a_loss_that_is_not_finite_stops_all(recipe):
    _, messages = train(2, recipe, "train.lr=1e30", "train.clip_norm=0", "train.warmup_steps=0",
                        code=1)
    lines = errors(messages)
    assert any(re.match(r"error: step \d+: ", line) for line in lines), messages
    assert all(re.match(r"error: (rank 1: )?step \d+: ", line) for line in lines), messages


def test_a_full_disk_of_one_rank_is_named_by_the_other(recipe, tmp_path, fail_writes):
    port, run = free_port(), tmp_path / "run"
    faults = dict(LD_PRELOAD=str(fail_writes), FAIL_FOLDER=f"{run}/checkpoints/", FAIL_AFTER="0",
                  FAIL_ERROR="28")
    ranks = [start(0, 2, port, recipe, *LONG), start(1, 2, port, recipe, *LONG, **faults)]
    outputs = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1], outputs
    assert "rank 1 stopped: " in outputs[0] and "No space left on device" in outputs[0], outputs
    assert "error: rank 1: " in outputs[1] and "No space left on device" in outputs[1]
    assert not any((run / "checkpoints").iterdir())


# A rank asks how the others are when it has waited for 20 s.
@pytest.mark.long
def test_a_rank_that_cannot_read_its_data_is_named_by_the_other(corpus, recipe, tmp_path):
    port, ranks = free_port(), []
    for rank in range(2):
        host = tmp_path / f"host{rank}"
        host.mkdir()
        for file in corpus.glob("data_*"):
            shutil.copy(file, host)
        if rank == 1:
            (host / "data_train.bin").unlink()
        ranks.append(start(rank, 2, port, recipe, "data.train=data_train", "data.valid=data_valid",
                           cwd=host))
    outputs = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 2], outputs
    assert len(errors(outputs[0])) == 1 and len(errors(outputs[1])) == 1, outputs
    assert "rank 1 stopped: data_train.bin: cannot open" in errors(outputs[0])[0]
    assert errors(outputs[1])[0].startswith("error: rank 1: data_train.bin: cannot open")


def test_ranks_with_other_recipes_are_refused(recipe):
    port = free_port()
    ranks = [start(rank, 2, port, recipe, f"train.lr={1 + rank}e-3") for rank in range(2)]
    for rank, process in enumerate(ranks):
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 2
        assert len(errors(messages)) == 1, messages
        assert errors(messages)[0].endswith(
            'rank 1 has another recipe than rank 0: "lr = 0.002" vs "lr = 0.001"'), messages


def test_a_stopped_host_of_the_store_holds_nobody(recipe, tmp_path):
    port = free_port()
    ranks = [start(rank, 2, port, recipe, *LONG, "parallel.timeout=2") for rank in range(2)]
    wait_for_steps(tmp_path / "run", ranks[0])
    ranks[0].send_signal(signal.SIGSTOP)
    try:
        _, messages = ranks[1].communicate(timeout=60)
        assert ranks[1].returncode == 1
        assert len(errors(messages)) == 1, messages
        assert errors(messages)[0].endswith("the store of the run does not answer")
    finally:
        ranks[0].kill()
        ranks[0].communicate()


@pytest.mark.long
def test_ranks_with_other_numbers_of_ranks_are_told(recipe):
    port = free_port()
    ranks = [start(rank, size, port, recipe, "train.tokens_per_step=384", "parallel.timeout=60")
             for rank, size in ((0, 2), (1, 4))]
    lines = [errors(rank.communicate(timeout=60)[1]) for rank in ranks]
    told = [rank.returncode for rank in ranks].index(2)
    wrong = f"rank {told} was told of {(2, 4)[told]} ranks, another one of {(4, 2)[told]}"
    assert len(lines[told]) == 1 and lines[told][0].endswith(wrong), lines
    assert ranks[1 - told].returncode == 1
    assert len(lines[1 - told]) == 1 and f"rank {told} stopped: {wrong}" in lines[1 - told][0]


def test_two_processes_of_one_rank_are_told(recipe, tmp_path):
    port, run = free_port(), tmp_path / "run"
    # A run that lasts, for the second of them may be late and must still find it.
    ranks = [start(rank, 2, port, recipe, *LONG) for rank in (0, 1, 1)]
    deadline = time.time() + 60
    while all(rank.poll() is None for rank in ranks):
        assert time.time() < deadline
        time.sleep(0.01)
    wait_for_steps(run, ranks[0])
    ranks[0].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=60) for rank in ranks]
    assert sorted(rank.returncode for rank in ranks) == [0, 0, 2], outputs
    refused_one = next(o[1] for r, o in zip(ranks, outputs) if r.returncode == 2)
    assert len(errors(refused_one)) == 1 and "is rank 1 already" in errors(refused_one)[0]


def test_an_address_that_is_no_host(recipe):
    port = free_port()
    first = start(0, 2, port, recipe, "parallel.timeout=2", MASTER_ADDR="no.such.host.invalid")
    _, messages = first.communicate(timeout=60)
    assert first.returncode == 2
    assert len(errors(messages)) == 1 and "MASTER_ADDR must be a name" in errors(messages)[0]


def test_meshes_that_cannot_be(recipe):
    one = lambda *values: refused("train", recipe, *settings(*values), env=QUIET)
    assert "powers of two: 3 microbatches" in one("train.tokens_per_step=288", *SAME)
    four = dict(QUIET, RANK="0", WORLD_SIZE="4", LOCAL_RANK="0")
    assert "multiple of the data-parallel ranks: 2 vs 4" in refused("train", recipe, env=four)
    two = dict(QUIET, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert "cuda gives each its own" in refused("train", recipe, "--device", "cuda:1", env=two)


def test_a_port_in_use_and_a_store_that_is_not_there(recipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first = start(0, 2, port, recipe)
        _, messages = first.communicate(timeout=60)
        assert first.returncode == 2
        assert len(errors(messages)) == 1 and "choose another MASTER_PORT" in messages
    second = start(1, 2, free_port(), recipe, "parallel.timeout=2")
    _, messages = second.communicate(timeout=60)
    assert second.returncode == 1
    assert len(errors(messages)) == 1 and "no store answers" in messages
