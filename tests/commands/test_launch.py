# SPDX-License-Identifier: Apache-2.0
"""The examples of tools/launch, with parallel_collectives_test as what they launch.

torchrun is the real one, on one host and on two, which are network namespaces. Where a scheduler is
not installed, a stand-in gives each process the variables that it would."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "tools" / "launch"
BUILD = ROOT / os.environ.get("BATON_BUILD", "build")
PROGRAM = os.environ.get("BATON_RANKS_PROGRAM", str(BUILD / "baton" / "parallel_collectives_test"))
SECONDS = 240

# Starts `tasks` processes with variables of a scheduler; options of the real one come first.
STAND_IN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
given = {{}}
while words[0].startswith("-"):
    word = words.pop(0)
    if word == "-x":
        key, value = words.pop(0).split("=", 1)
        given[key] = value
    elif "=" not in word:
        words.pop(0)
tasks = int(os.environ["TASKS"])
variables = {variables}
started = [subprocess.Popen(words, env={{**os.environ, **given, **{{
    key: value.format(rank=rank, tasks=tasks) for key, value in variables.items()}}}})
    for rank in range(tasks)]
sys.exit(max(process.wait() for process in started))
"""
SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "{rank}", "SLURM_STEP_NUM_TASKS": "{tasks}",
         "SLURM_LOCALID": "{rank}", "SLURM_STEP_NODELIST": "localhost"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "{rank}", "OMPI_COMM_WORLD_SIZE": "{tasks}",
            "OMPI_COMM_WORLD_LOCAL_RANK": "{rank}"}


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def tools(tmp_path):
    """Environment for the examples: torchrun of this Python first in PATH, stand-ins behind."""
    torchrun = tmp_path / "first" / "torchrun"
    torchrun.parent.mkdir()
    torchrun.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    for name, variables in (("srun", SLURM), ("mpirun", OPEN_MPI)):
        stand_in = tmp_path / "last" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(STAND_IN.format(python=sys.executable, variables=variables))
        stand_in.chmod(0o755)
    torchrun.chmod(0o755)
    path = f"{tmp_path}/first:{os.environ['PATH']}:{tmp_path}/last"
    return {**os.environ, "PATH": path, "RANKS": "2", "TASKS": "2", "OMP_NUM_THREADS": "1"}


def launch(name, environment, prefix=()):
    # Two ranks move data, which is what the launcher has to make possible.
    return subprocess.Popen(
        [*prefix, str(LAUNCH / name), PROGRAM, "--table=1", "--gtest_filter=*All*"],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def expect_ranks(process, ranks):
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert f"{ranks} ranks, cpu" in output, output
    assert not re.search("frame #|Traceback", output), output


@pytest.mark.long
def test_one_node(tools):
    expect_ranks(launch("one_node", tools), 2)


def test_slurm(tools):
    expect_ranks(launch("slurm", {**tools, "SLURM_JOB_ID": str(free_port())}), 2)


def test_open_mpi(tools):
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**tools, **as_root, "HOSTS": "localhost:2", "PORT": str(free_port())}
    expect_ranks(launch("open_mpi", environment), 2)


def needs_namespaces():
    if os.geteuid() != 0:
        return "two hosts in one machine need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "two hosts in one machine need ip and unshare"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True,
                          text=True)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else None


@pytest.fixture
def hosts(tmp_path):
    """Two namespaces joined by a cable, each with a host's name and the names of both: commands
    that run another command there."""
    reason = needs_namespaces()
    if reason:
        pytest.skip(reason)
    names = [f"baton{os.getpid()}{letter}" for letter in "ab"]
    cables = [f"bt{os.getpid() % 10**7}{letter}" for letter in "ab"]
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 localhost\n" + "".join(
        f"10.77.0.{number + 1} {name}\n" for number, name in enumerate(names)))

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for number, (name, cable) in enumerate(zip(names, cables)):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        inside = f'mount --bind "{file}" /etc/hosts && hostname "$0" && exec "$@"'
        yield {name: ["ip", "netns", "exec", name, "unshare", "--uts", "--mount", "sh", "-c",
                      inside, name] for name in names}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.long
def test_two_nodes(tools, hosts):
    first = next(iter(hosts))
    environment = {**tools, "FIRST": first, "NODES": "2"}
    nodes = [launch("several_nodes", environment, prefix) for prefix in hosts.values()]
    try:
        outputs = [node.communicate(timeout=SECONDS)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    assert sum("4 ranks, cpu" in output for output in outputs) == 1, "\n".join(outputs)
