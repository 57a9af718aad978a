# SPDX-License-Identifier: Apache-2.0
"""Runs the built program as a person would."""

import json
import os
import pathlib
import random
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("BATON_PROGRAM", str(ROOT / "build" / "apps" / "baton"))

WORDS = "the baton goes from hand to hand and the state from chunk to chunk until it is done".split()

RECIPE = """
[run]
folder = "{folder}/run"
seed = 7
threads = 1

[data]
train = "{folder}/data_train"
valid = "{folder}/data_valid"
tokens_per_microbatch = 96

[model]
pattern = "M-*M"
width = 32
dropout = 0.1

[model.mamba]
num_heads = 4
head_dim = 16
num_groups = 2
state_size = 16

[model.attention]
num_heads = 4
num_kv_heads = 2
head_dim = 8

[model.mlp]
hidden = 64

[train]
steps = 12
tokens_per_step = 192
lr = 3e-3
warmup_steps = 2
eval_interval = 6
eval_tokens = 500

[checkpoint]
interval = 4
keep = 3
"""


def baton(*arguments, code=0, **options):
    """Runs the program and checks its exit code; the result has stdout and stderr as text."""
    result = subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )
    assert result.returncode == code, f"{arguments}: {result.returncode}\n{result.stderr}"
    return result


def refused(*arguments, code=2, **options):
    """The one line with which the program refuses bad input."""
    lines = baton(*arguments, code=code, **options).stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def metrics(folder):
    with open(folder / "metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def losses(folder):
    return {line["step"]: line["loss"] for line in metrics(folder)}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with data_train and data_valid, made by `baton data build` from generated text."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(5)
    with open(folder / "text.jsonl", "w") as file:
        for _ in range(200):
            words = draw.choices(WORDS, k=draw.randint(1, 60))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    baton("data", "build", "--input", folder / "text.jsonl", "--output", folder / "data",
          "--holdout", "0.1")
    return folder


@pytest.fixture
def recipe(corpus, tmp_path):
    """A small recipe whose run folder is fresh."""
    text = RECIPE.format(folder=corpus).replace(f"{corpus}/run", f"{tmp_path}/run")
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """The run folder of a finished small run."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(folder=corpus).replace(f"{corpus}/run", f"{folder}/run"))
    baton("train", path)
    return folder / "run"


@pytest.fixture(scope="session")
def fail_writes(tmp_path_factory):
    library = tmp_path_factory.mktemp("fail_writes") / "fail_writes.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests" / "commands" / "fail_writes.c", "-ldl"],
                   check=True)
    return library
