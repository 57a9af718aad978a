# SPDX-License-Identifier: Apache-2.0
"""The program with --device cuda: training, resuming, generation, evaluation and logits.

On a GPU where there is one, with BATON_PROGRAM the program; else on a pretended one
(tests/pretend_gpu), which proves the same but for the kernels' numbers, in small sizes.
"""

import contextlib
import copy
import ctypes
import fcntl
import importlib.util
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "commands"))

from hf_models import (  # noqa: E402
    BF16_FACTOR,
    FAMILIES,
    FP32_TOLERANCE,
    NUM_MODELS,
    largest_difference,
    logits_of,
    make_model,
    norm_as_transformers_runs_it,
    random_tokens,
    typical_difference,
)
from safetensors.torch import load_file  # noqa: E402

# fp32 on both sides; other orders of additions grow with every update.
EARLY_STEPS, EARLY_TOLERANCE, LATE_TOLERANCE = 20, 1e-4, 2e-2
# bf16 has 8 bits; masters keep the updates.
BF16_TOLERANCE = 0.05
# Of the logits' standard deviation, for one model after training on the two devices.
LOGITS_TOLERANCE = 1e-3
# Tensor units also take the scan's scores, decays and states in bf16, as mamba_ssm's kernels do and
# transformers' torch path does not; for where only the latter is there to compare with.
BF16_FACTOR_ON_TENSOR_UNITS = 1.5 * BF16_FACTOR
# However far mamba_ssm's kernels are off, Baton may not be further from fp32 than so many times the
# torch path.
MOST_OF_TORCH_PATH = 3.0
# Programs at once: each is busy with starting the driver for most of its time.
AT_ONCE = 8

WORDS = 400

RECIPE = """
[run]
folder = "{folder}"
seed = 7
threads = {threads}

[data]
train = "{data}/data_train"
valid = "{data}/data_valid"
tokens_per_microbatch = {microbatch}

[model]
pattern = "M-M-M*-M-"
width = 192
dropout = 0.1

[model.mamba]
num_heads = 12
head_dim = 32
num_groups = 1
state_size = 32

[model.attention]
num_heads = 6
num_kv_heads = 2
head_dim = 32

[model.mlp]
hidden = 512

[train]
steps = {steps}
tokens_per_step = {step}
lr = 3e-3
warmup_steps = 5
eval_interval = 0
eval_tokens = 4096

[checkpoint]
interval = {half}
keep = 9
"""


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def has_gpu():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


PRETENDED = not has_gpu()
commands = load("commands_of_baton", ROOT / "tests" / "commands" / "conftest.py")
STEPS, MICROBATCH, STEP = (24, 64, 128) if PRETENDED else (200, 1024, 2048)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "model_on_gpu"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def one_at_a_time(path):
    """Of the processes that come here with one path."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session", autouse=True)
def program(shared):
    if not PRETENDED:
        return
    # Threads that wait for each other take minutes where other programs want the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    path = shared / "program"
    with one_at_a_time(shared / "program.lock"):
        if not path.exists():
            build = os.environ.get("BATON_BUILD", ROOT / "build")
            pretend = load("pretend_gpu", ROOT / "tests" / "pretend_gpu" / "build.py")
            path.write_text(str(pretend.build(build, ROOT / "build" / "pretend_gpu")))
    commands.PROGRAM = path.read_text()


@pytest.fixture(scope="session")
def data(shared):
    """Sets of random words with a grammar that can be learnt: every word has few followers."""
    folder = shared / "texts"
    with one_at_a_time(shared / "texts.lock"):
        if not (folder / "made").exists():
            folder.mkdir()
            make_data(folder)
            (folder / "made").touch()
    return folder


def make_data(folder):
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghiklmnoprstu", k=draw.randint(2, 8))) for _ in range(WORDS)]
    followers = {word: draw.choices(words, k=3) for word in words}
    with open(folder / "text.jsonl", "w") as file:
        for _ in range(200 if PRETENDED else 2000):
            text = [draw.choice(words)]
            for _ in range(draw.randint(1, 200)):
                text.append(draw.choice(followers[text[-1]]))
            file.write(json.dumps({"text": " ".join(text)}) + "\n")
    commands.baton("data", "build", "--input", folder / "text.jsonl", "--output", folder / "data",
                   "--holdout", "0.1")


class Runs:
    """Training runs of one recipe, by name; each is made once."""

    def __init__(self, folder, data):
        self.folder = folder
        self.data = data

    def recipe(self, name):
        path = self.folder / f"{name}.toml"
        path.write_text(RECIPE.format(
            folder=self.folder / name, data=self.data, threads=1 if PRETENDED else 0, steps=STEPS,
            half=STEPS // 2, step=STEP, microbatch=MICROBATCH))
        return path

    def train(self, name, device, *options):
        folder = self.folder / name
        with one_at_a_time(self.folder / f"{name}.lock"):
            if not (folder / "loss.svg").exists():
                commands.baton("train", self.recipe(name), "--device", device, *options)
        return folder

    def resume_at_half(self, source, name, device, *options):
        """A copy of a run that has done half of its steps, then goes on."""
        folder = self.folder / name
        shutil.copytree(self.folder / source, folder)
        (folder / "loss.svg").unlink()
        for checkpoint in (folder / "checkpoints").iterdir():
            if checkpoint.name != f"step_{STEPS // 2:08}":
                shutil.rmtree(checkpoint)
        return self.train(name, device, "--resume", "must", *options)


@pytest.fixture(scope="session")
def runs(shared, data):
    return Runs(shared, data)


FP32 = ("--set", "model.dtype=fp32")


@pytest.fixture(scope="session")
def on_cpu(runs):
    return runs.train("on_cpu", "cpu", *FP32)


@pytest.fixture(scope="session")
def on_gpu(runs):
    return runs.train("on_gpu", "cuda", *FP32)


def numbers(folder):
    """What a run's metrics hold but for its speed."""
    return [{key: value for key, value in line.items() if key != "tokens_per_second"}
            for line in commands.metrics(folder)]


def differences(one, other):
    one, other = commands.losses(one), commands.losses(other)
    assert one.keys() == other.keys() and len(one) == STEPS
    return [abs(one[step] - other[step]) for step in sorted(one)]


def checkpoint_files(folder, step=STEPS):
    checkpoint = folder / "checkpoints" / f"step_{step:08}"
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def test_fp32_follows_the_cpu(on_cpu, on_gpu):
    off = differences(on_cpu, on_gpu)
    print(f"\nlargest difference of {EARLY_STEPS} losses {max(off[:EARLY_STEPS]):.1e}, "
          f"of {STEPS} {max(off):.1e}")
    assert max(off[:EARLY_STEPS]) < EARLY_TOLERANCE
    assert max(off) < LATE_TOLERANCE
    learnt = commands.losses(on_gpu)
    assert PRETENDED or learnt[STEPS] < 0.6 * learnt[1]


def test_bf16_is_the_default_and_near(runs, on_cpu):
    folder = runs.train("in_bf16", "cuda")
    recipe = (folder / "checkpoints" / f"step_{STEPS:08}" / "recipe.toml").read_text()
    assert 'dtype = "bf16"' in recipe and "master_weights = true" in recipe
    off = differences(on_cpu, folder)
    print(f"\nlargest difference of bf16 {max(off):.3f}")
    assert max(off) < BF16_TOLERANCE


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_two_runs_are_equal_to_the_bit(runs, on_gpu, dtype):
    options = ("--set", f"model.dtype={dtype}")
    first = on_gpu if dtype == "fp32" else runs.train("in_bf16", "cuda")
    again = runs.train(f"again_in_{dtype}", "cuda", *options)
    assert numbers(first) == numbers(again)
    assert checkpoint_files(first) == checkpoint_files(again)


def test_a_resumed_run_is_the_straight_one(runs, on_gpu):
    again = runs.resume_at_half("on_gpu", "resumed", "cuda", *FP32)
    assert numbers(again) == numbers(on_gpu)
    assert checkpoint_files(again) == checkpoint_files(on_gpu)


def test_a_checkpoint_of_the_gpu_goes_on_on_the_cpu(runs, on_gpu):
    on_cpu = runs.resume_at_half("on_gpu", "on_the_cpu_then", "cpu", *FP32)
    assert max(differences(on_cpu, on_gpu)) < LATE_TOLERANCE


def test_a_run_keeps_its_dtype_on_another_device(runs):
    runs.train("in_bf16", "cuda")
    on_cpu = runs.resume_at_half("in_bf16", "in_bf16_on_the_cpu_then", "cpu")
    recipe = (on_cpu / "checkpoints" / f"step_{STEPS:08}" / "recipe.toml").read_text()
    assert 'dtype = "bf16"' in recipe
    assert max(differences(on_cpu, runs.folder / "in_bf16")) < BF16_TOLERANCE


def test_a_checkpoint_of_the_cpu_goes_on_on_the_gpu(runs, on_cpu):
    on_gpu = runs.resume_at_half("on_cpu", "on_the_gpu_then", "cuda", *FP32)
    assert max(differences(on_cpu, on_gpu)) < LATE_TOLERANCE


def generate(model, device, *options):
    result = commands.baton("generate", model, "--device", device, "--prompt", "the state",
                            "--max-new-tokens", 60, "--json", *options).stdout
    return json.loads(result)["tokens"]


def test_greedy_tokens_are_those_of_the_cpu(on_gpu):
    assert generate(on_gpu, "cuda", "--temperature", 0) == generate(on_gpu, "cpu", "--temperature", 0)


def test_sampled_tokens_repeat(on_gpu):
    options = ("--temperature", 0.8, "--top-p", 0.9, "--seed", 3)
    assert generate(on_gpu, "cuda", *options) == generate(on_gpu, "cuda", *options)


def logits(model, device, out, sequences, *options):
    tokens = [f"--tokens={','.join(map(str, sequence))}" for sequence in sequences]
    commands.baton("logits", model, *tokens, "--out", out, "--device", device, *options)
    return load_file(out)["logits"]


def test_logits_are_those_of_the_cpu_and_decode_is_prefill(on_gpu, tmp_path):
    draw = random.Random(9)
    sequences = [[draw.randrange(256) for _ in range(length)] for length in (130, 1, 33)]
    wanted = logits(on_gpu, "cpu", tmp_path / "cpu", sequences)
    for prefill in (0, 1, 20, 200):
        found = logits(on_gpu, "cuda", tmp_path / "gpu", sequences, "--prefill", prefill)
        off = largest_difference(found, wanted)
        print(f"\nprefill {prefill}: logits differ by {off:.1e} deviations")
        assert off < LOGITS_TOLERANCE


def test_evaluation_is_that_of_the_cpu(on_gpu, data):
    def loss(device):
        result = commands.baton("eval", on_gpu, "--data", data / "data_valid", "--device", device,
                                "--json").stdout
        return json.loads(result)

    gpu, cpu = loss("cuda"), loss("cpu")
    assert abs(gpu["loss"] - cpu["loss"]) < EARLY_TOLERANCE
    assert gpu["tokens"] == cpu["tokens"]


def test_doctor_finds_a_run_of_the_gpu_healthy(on_gpu, runs):
    for folder in on_gpu, runs.train("in_bf16", "cuda"):
        assert "healthy" in commands.baton("doctor", folder, "--device", "cuda").stdout.split()


def start_bf16_of_transformers(family, out):
    """Begins to compute transformers' bf16 logits on this GPU (bf16_by_transformers.py), if torch has
    one; what is returned waits for them."""
    if PRETENDED or not torch.cuda.is_available():
        return dict
    script = ROOT / "tests" / "gpu" / "bf16_by_transformers.py"
    process = subprocess.Popen([sys.executable, script, family, out], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def wait():
        said, _ = process.communicate(timeout=600)
        print(said)
        assert process.returncode == 0, said
        return load_file(out)

    return wait


def differences_of_transformers(index, wanted, on_cpu, on_gpu):
    """A bf16 model's from fp32, by what took the scan, the most alike to Baton's first."""
    given = {"mamba_ssm's scan": on_gpu.get(f"mamba_ssm_{index}"),
             "torch path": on_gpu.get(f"torch_{index}"), "torch path on the CPU": on_cpu}
    return {way: typical_difference(logits, wanted)
            for way, logits in given.items() if logits is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_logits(family, tmp_path, record_property):
    """As tests/commands/test_hf_logits.py, on the GPU."""
    theirs = start_bf16_of_transformers(family, tmp_path / "theirs")
    norm = norm_as_transformers_runs_it(family)

    def work_of(index):
        model = make_model(family, index)
        model.save_pretrained(tmp_path / f"fp32_{index}")
        sequences = [random_tokens(model, length, length) for length in (70, 1, 33, 2)]
        wanted = torch.cat([logits_of(model, sequence) for sequence in sequences])
        for prefill in (0, 1, 20):
            yield index, f"fp32_{index}", prefill, sequences, wanted, None
        tokens = random_tokens(model, 96, 1)
        narrow = copy.deepcopy(model).bfloat16()
        narrow.save_pretrained(tmp_path / f"bf16_{index}")
        yield index, f"bf16_{index}", 0, [tokens], logits_of(model, tokens), logits_of(narrow, tokens)

    def found_by(work):
        _, folder, prefill, sequences, _, _ = work
        out = tmp_path / f"{folder}_{prefill}.out"
        return logits(tmp_path / folder, "cuda", out, sequences, "--prefill", prefill, *norm)

    models = range(1 if PRETENDED else NUM_MODELS)
    work = [one for index in models for one in work_of(index)]
    with ThreadPoolExecutor(1 if PRETENDED else AT_ONCE) as pool:
        found = list(pool.map(found_by, work))
    on_gpu = theirs()
    trouble, ratios = [], {}
    for (index, folder, prefill, _, wanted, narrow), logits_found in zip(work, found):
        if narrow is None:
            off, bound = largest_difference(logits_found, wanted), FP32_TOLERANCE
        else:
            off = typical_difference(logits_found, wanted)
            others = differences_of_transformers(index, wanted, narrow, on_gpu)
            way = next(iter(others))
            bound = others[way] * (
                BF16_FACTOR if way == "mamba_ssm's scan" else BF16_FACTOR_ON_TENSOR_UNITS)
            bound = min(bound, MOST_OF_TORCH_PATH * others["torch path on the CPU"])
            for way, other in others.items():
                ratios.setdefault(way, []).append(off / other)
        if not off <= bound:
            trouble.append(f"{folder}, prefill {prefill}: {off:.1e} above {bound:.1e}")
    for way, values in ratios.items():
        record_property(f"bf16 difference over that of transformers ({way})",
                        f"{min(values):.2f} to {max(values):.2f}, {len(values)} models")
        print(f"\nbf16 over transformers' bf16 ({way}): {max(values):.2f} of {len(values)} models")
    assert trouble == []


def test_out_of_memory_is_one_line(runs):
    recipe = runs.recipe("too_large")
    # 412 GB for each tensor [tokens, width], so that none is had for a while, which others might need.
    tokens, width = (MICROBATCH, 192) if PRETENDED else (1 << 26, 1536)
    environment = dict(os.environ, PRETEND_GPU_BYTES="8000000", BATON_LOG="error",
                       BATON_PROGRESS="off")
    line = commands.refused("train", recipe, "--device", "cuda", *FP32,
                            "--set", f"data.tokens_per_microbatch={tokens}",
                            "--set", f"train.tokens_per_step={tokens}",
                            "--set", f"model.width={width}", code=1, env=environment)
    print(f"\n{line}")
    assert line.startswith("error: out of GPU memory: ")
    for word in ("asked for", "free on GPU 0", "in use", f"data.tokens_per_microbatch ({tokens})"):
        assert word in line


def test_time_from_start_to_the_first_step(runs):
    """Prints only: machines differ, and the kernels' cache is warm by now."""
    recipe = runs.recipe("timed")
    folder = runs.folder / "timed"
    began = time.monotonic()
    process = subprocess.Popen(
        [commands.PROGRAM, "train", recipe, "--device", "cuda", "--set", "data.valid="],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "metrics.jsonl").exists() or not commands.metrics(folder):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        to_first = time.monotonic() - began
        _, log = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, log
    seconds = [STEP / line["tokens_per_second"] for line in commands.metrics(folder)]
    steady = statistics.median(seconds[len(seconds) // 2:])
    loaded = re.search(r"kernels loaded in ([0-9.]+) s", log)[1]
    print(f"\nstart to the end of the first step {to_first:.1f} s (kernels loaded in {loaded} s); "
          f"first step {1e3 * seconds[0]:.1f} ms, steady step {1e3 * steady:.1f} ms")


def test_bench_on_the_device(runs):
    """Prints: the first prompt, token and step over later ones are what a warm start promises."""
    recipe = runs.recipe("benched")
    figures = json.loads(commands.baton(
        "bench", recipe, "--set", "run.device=cuda", "--set", "model.vocabulary=320",
        "--tokens", MICROBATCH, "--repeats", 3, "--decode-tokens", 8, "--json").stdout)
    assert figures["device"] == "cuda:0"
    firsts = [figures[name] for name in (
        "first_step_over_step", "first_prefill_over_prefill", "first_token_over_token")]
    print("\nfirst over later: step {:.2f}, prompt {:.2f}, token {:.2f}".format(*firsts))
    assert all(first > 0 for first in firsts)
