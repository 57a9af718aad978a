# SPDX-License-Identifier: Apache-2.0
"""Several ranks, one process each: the program parallel_collectives_test, on CPUs by Gloo, and by
NCCL where there are two GPUs. BATON_RANKS_PROGRAM names the program if it is not in build/."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BATON_BUILD", "build")
PROGRAM = os.environ.get("BATON_RANKS_PROGRAM", str(BUILD / "baton" / "parallel_collectives_test"))
TRACES = re.compile(r"frame #|Traceback|terminate called|destroy_process_group|Exception raised")
# Of a whole run; the first start of a GPU takes a minute of it.
SECONDS = 240


def count_gpus():
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except OSError:
        return 0
    return len(re.findall(r"^GPU \d+:", listed.stdout, re.M))


GPUS = count_gpus()
on_both = pytest.mark.parametrize("device", [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(GPUS < 2, reason=f"wants two GPUs, has {GPUS}"))])


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@on_both
def test_collectives_give_what_gloo_gives(device):
    ranks, table = (GPUS, 1024) if device == "cuda" else (2, 1)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
         "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}", PROGRAM, f"--device={device}",
         f"--table={table}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "[  PASSED  ]" in done.stdout and "SKIPPED" not in done.stdout
    assert f"| {table} |" in done.stdout
    assert not TRACES.search(done.stdout)


def start(how, device, timeout):
    """Two ranks without a launcher, which would end the other when one is lost."""
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(free_port())}
    return [subprocess.Popen(
        [PROGRAM, f"--device={device}", f"--timeout={timeout}", f"--lose={how}"],
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]


@on_both
def test_a_lost_rank_is_named_in_one_line(device):
    # Connecting takes of the same time: seconds on GPUs, and on cores that others keep busy.
    timeouts = {"exit": 60, "throw": 60, "stall": 45 if device == "cuda" else 20}
    pairs = {how: start(how, device, timeout) for how, timeout in timeouts.items()}
    try:
        found = {}
        for how, (left, lost) in pairs.items():
            _, errors = left.communicate(timeout=SECONDS)
            found[how] = errors
            print(f"{how}: {errors}", end="")
            assert left.returncode == 1, (how, errors)
            lines = [line for line in errors.splitlines() if "failed: " in line]
            assert len(lines) == 1 and not TRACES.search(errors), (how, errors)
            assert "rank 0: all_reduce along all (rank 0 of 2 there) failed: " in lines[0]
            if how == "throw":
                _, errors = lost.communicate(timeout=SECONDS)
                assert lost.returncode == 1 and "error: its disk is full" in errors, errors
                assert not TRACES.search(errors), errors
        assert "rank 1 is gone" in found["exit"]
        assert "rank 1 stopped: its disk is full" in found["throw"]
        assert "rank 1" not in found["stall"]
        assert re.search(r"nothing came in 45 s|Timed out", found["stall"])
    finally:
        for pair in pairs.values():
            for process in pair:
                process.kill()
                process.communicate()
