# SPDX-License-Identifier: Apache-2.0
"""The whole program on the CUDA operators' own host code and kernels, emulated, beside the CPU's."""

import importlib.util
import json
import os
import pathlib
import random
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of losses: fp32 in another order, over a few updates; bf16 with its 8 bits.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.02}

pytestmark = pytest.mark.long


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


commands = load("commands_of_baton", ROOT / "tests" / "commands" / "conftest.py")


@pytest.fixture(scope="module")
def program():
    build = load("pretend_gpu", ROOT / "tests" / "pretend_gpu" / "build.py")
    return build.build(os.environ.get("BATON_BUILD", ROOT / "build"),
                       ROOT / "build" / "pretend_gpu_kernels", kernels=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated")
    draw = random.Random(5)
    with open(folder / "text.jsonl", "w") as file:
        for _ in range(200):
            words = draw.choices(commands.WORDS, k=draw.randint(1, 60))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    commands.baton("data", "build", "--input", folder / "text.jsonl", "--output", folder / "data",
                   "--holdout", "0.1")
    path = folder / "recipe.toml"
    path.write_text(commands.RECIPE.format(folder=folder))
    return path


def run(program, *arguments):
    """Without a limit on time: the kernels are compiled for the emulator first."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_model_is_trained_and_used_as_on_the_cpu(dtype, program, recipe):
    folders = {}
    for device, where in (("cpu", commands.PROGRAM), ("cuda", program)):
        folders[device] = recipe.parent / f"{dtype}_{device}"
        settings = {"run.folder": folders[device], "model.dtype": dtype, "train.steps": 6,
                    "train.eval_interval": 3}
        run(where, "train", recipe, "--device", device,
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")))
    for cpu, cuda in zip(*(commands.metrics(folder) for folder in folders.values()), strict=True):
        for key in {"loss", "valid_loss"} & cpu.keys():
            assert abs(cpu[key] - cuda[key]) < TOLERANCES[dtype], f"step {cpu['step']}"
    assert "healthy" in run(program, "doctor", folders["cuda"], "--device", "cuda").split()
    if dtype == "fp32":
        generated = [run(where, "generate", folders["cuda"], "--prompt", "the baton",
                         "--max-new-tokens", 20, "--temperature", 0, "--device", device, "--json")
                     for device, where in (("cpu", commands.PROGRAM), ("cuda", program))]
        assert generated[0] == generated[1]
