# SPDX-License-Identifier: Apache-2.0
"""How often the host waits for a GPU, counted on a pretended one; and that it refuses mistakes."""

import importlib.util
import json
import os
import pathlib
import random

import pytest

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


commands = load("commands_of_baton", ROOT / "tests" / "commands" / "conftest.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and a recipe; the program becomes the one on the pretended GPU."""
    build = load("pretend_gpu", ROOT / "tests" / "pretend_gpu" / "build.py")
    commands.PROGRAM = str(build.build(os.environ.get("BATON_BUILD", ROOT / "build"),
                                       ROOT / "build" / "pretend_gpu"))
    folder = tmp_path_factory.mktemp("waits")
    draw = random.Random(5)
    with open(folder / "text.jsonl", "w") as file:
        for _ in range(200):
            words = draw.choices(commands.WORDS, k=draw.randint(1, 60))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    commands.baton("data", "build", "--input", folder / "text.jsonl", "--output", folder / "data",
                   "--holdout", "0.1")
    recipe = folder / "recipe.toml"
    recipe.write_text(commands.RECIPE.format(folder=folder))
    commands.baton("train", recipe, "--device", "cuda")
    return folder


def waits(folder, *arguments):
    """The waits of a command, by cause."""
    report = folder / "report.json"
    environment = dict(os.environ, PRETEND_GPU_REPORT=str(report), OMP_NUM_THREADS="1")
    commands.baton(*arguments, "--device", "cuda", env=environment)
    return json.loads(report.read_text())


def growth(folder, few, many):
    """How much the waits of the second command exceed those of the first."""
    few, many = waits(folder, *few), waits(folder, *many)
    return {cause: many[cause] - few.get(cause, 0) for cause in many
            if many[cause] != few.get(cause, 0)}


def training(folder, name, *options):
    settings = {"run.folder": folder / name, "checkpoint.interval": 0, "train.eval_interval": 0}
    return ["train", folder / "recipe.toml", *options,
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]


def test_a_training_step_waits_once(folder):
    assert growth(
        folder,
        training(folder, "few", "--set", "train.steps=3"),
        training(folder, "many", "--set", "train.steps=8"),
    ) == {"copy to the host": 5}


def test_microbatches_do_not_wait(folder):
    assert growth(
        folder,
        training(folder, "two", "--set", "train.steps=2"),
        training(folder, "six", "--set", "train.steps=2", "--set", "train.tokens_per_step=576"),
    ) == {}


def test_an_evaluation_waits_once(folder):
    data = ["eval", folder / "run", "--data", folder / "data_valid"]
    assert growth(folder, [*data, "--max-tokens", 96], [*data, "--max-tokens", 960]) == {}


def test_a_generated_token_waits_once(folder):
    prompt = ["generate", folder / "run", "--prompt", "the baton", "--temperature", "0"]
    few, many = ([*prompt, "--max-new-tokens", count] for count in (4, 14))
    assert growth(folder, few, many) == {"copy to the host": 10}


def test_any_gpu_gives_the_same(folder):
    def losses(device):
        name = device.replace(":", "_")
        commands.baton(*training(folder, name), "--device", device)
        return commands.losses(folder / name)

    assert losses("cuda") == losses("cuda:1")


def test_a_gpu_that_is_not_there_is_refused(folder):
    line = commands.refused(*training(folder, "none"), "--device", "cuda:2")
    assert line == "error: run.device is cuda:2, but the last GPU here is cuda:1"
    line = commands.refused("eval", folder / "run", "--data", folder / "data_valid", "--device",
                            "cuda:2")
    assert line == "error: --device is cuda:2, but the last GPU here is cuda:1"


def test_fp64_is_refused(folder):
    line = commands.refused(*training(folder, "wide"), "--device", "cuda", "--set",
                            "model.dtype=fp64")
    assert "model.dtype is fp64" in line
