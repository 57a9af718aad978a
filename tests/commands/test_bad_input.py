# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a recipe, a file or a prompt: one line, exit code 2, nothing lost."""

import json
import os
import shutil
import struct

import pytest

from conftest import baton, losses, refused

RECIPES = {
    "train.lrr=1": ["train.lrr", "did you mean 'train.lr'"],
    "train.steps=many": ["train.steps", "an integer", "many"],
    "train.steps=0": ["train.steps", "0"],
    "train.lr=-1": ["train.lr", "-1"],
    "train.lr=nan": ["train.lr"],
    "train.steps=9999999999999999999999": ["train.steps"],
    "model.mamba.num_heads=5": ["num_heads", "5"],
    "model.attention.num_kv_heads=3": ["num_kv_heads", "3"],
    "model.width=0": ["model.width", "0"],
    "model.dtype=fp8": ["model.dtype", "fp8"],
    "model.pattern=": ["model.pattern"],
    "model.vocabulary=12": ["model.vocabulary", "12"],
    "train.warmup_steps=100": ["warmup"],
    "train.min_lr=1": ["min_lr"],
    "data.tokens_per_microbatch=7": ["tokens_per_microbatch", "7"],
    "run.folder=/proc/nowhere/run": ["/proc/nowhere"],
    "run.device=tpu": ["run.device", "tpu"],
    "model": ["KEY=VALUE"],
    "model=3": ["model"],
}


@pytest.mark.parametrize("setting", RECIPES)
def test_settings(recipe, setting):
    line = refused("train", recipe, "--set", setting)
    assert all(word in line for word in RECIPES[setting]), line


def set_bytes(path, offset, new):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(new)] = new
    path.write_bytes(content)


INDEXES = {
    "empty": lambda p: p.write_bytes(b""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "foreign": lambda p: p.write_bytes(os.urandom(400)),
    "text": lambda p: p.write_text("not an index\n" * 20),
    "version": lambda p: set_bytes(p, 9, struct.pack("<Q", 7)),
    "dtype": lambda p: set_bytes(p, 17, b"\x63"),
    "counts": lambda p: set_bytes(p, 18, struct.pack("<Q", 1 << 62)),
    "length": lambda p: set_bytes(p, 34, struct.pack("<i", -5)),
    "missing": lambda p: p.unlink(),
}


@pytest.mark.parametrize("damage", INDEXES)
def test_damaged_index(recipe, corpus, tmp_path, damage):
    for half in "bin", "idx":
        shutil.copy(corpus / f"data_train.{half}", tmp_path / f"bad.{half}")
    INDEXES[damage](tmp_path / "bad.idx")
    assert "bad.idx" in refused("train", recipe, "--set", f"data.train={tmp_path}/bad")


@pytest.mark.parametrize("size", [0, 10, -1])
def test_data_of_the_wrong_size(recipe, corpus, tmp_path, size):
    shutil.copy(corpus / "data_train.idx", tmp_path / "bad.idx")
    whole = (corpus / "data_train.bin").read_bytes()
    (tmp_path / "bad.bin").write_bytes(whole[:size] if size >= 0 else whole + b"xx")
    assert "bad" in refused("train", recipe, "--set", f"data.train={tmp_path}/bad")


def test_inputs_of_the_builder(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(bytes(range(256)) * 20)
    lines = tmp_path / "bad.jsonl"
    lines.write_text('{"text": "good"}\n{"text": 3}\n')
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "good"}\n{"text": "cut\n')
    for path in empty, binary, lines, broken, tmp_path / "missing.txt":
        line = refused("data", "build", "--input", path, "--output", tmp_path / "out")
        assert path.name in line, line
    assert "2" in refused("data", "build", "--input", lines, "--output", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def header_of(path):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def change_tensor(change):
    def damage(path):
        header, data = header_of(path)
        names = sorted(name for name in header if name != "__metadata__")
        change(header, names)
        write_header(path, header, data)
    return damage


WEIGHTS = {
    "empty": lambda p: p.write_bytes(b""),
    "header length": lambda p: set_bytes(p, 0, struct.pack("<Q", 1 << 60)),
    "short": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "no json": lambda p: set_bytes(p, 8, b"#"),
    "outside": change_tensor(lambda h, n: h[n[0]].update(data_offsets=[0, 1 << 40])),
    "overlap": change_tensor(lambda h, n: h[n[1]].update(data_offsets=h[n[0]]["data_offsets"])),
    "dtype": change_tensor(lambda h, n: h[n[0]].update(dtype="F31")),
    "shape": change_tensor(lambda h, n: h[n[0]].update(shape=[-1, 4])),
    "name": change_tensor(lambda h, n: h.update({"other": h.pop(n[0])})),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_damaged_weights(trained, tmp_path, damage):
    shutil.copytree(trained, tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for checkpoint in checkpoints:
        WEIGHTS[damage](next(checkpoint.glob("parameters*.safetensors")))
    line = refused("logits", checkpoints[-1], "--tokens", "1,2", "--out", tmp_path / "x.safetensors")
    assert "parameters-00000.safetensors" in line or "manifest" in line, line
    assert not (tmp_path / "x.safetensors").exists()


def test_prompts(trained, tmp_path):
    assert "empty" in refused("generate", trained, "--prompt", "")
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("")
    assert "empty" in refused("generate", trained, "--prompt-file", nothing)
    line = refused("generate", trained, "--prompt", "a", "--max-new-tokens", 1 << 40)
    assert "--max-new-tokens" in line or "max_new_tokens" in line
    assert "no_file" in refused("generate", trained, "--prompt-file", tmp_path / "no_file")
    assert "top" in refused("generate", trained, "--prompt", "a", "--top-p", "1.5")


def test_a_folder_that_cannot_be_made(recipe, trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refused("train", recipe, "--set", f"run.folder={tmp_path}/file/run")
    assert "file/run" in line
    # The run before is whole.
    assert max(losses(trained)) == 12
    baton("logits", trained, "--tokens", "1", "--out", tmp_path / "x.safetensors")
