# SPDX-License-Identifier: Apache-2.0
"""baton doctor: healthy folders, and each kind of trouble by its name."""

import json
import subprocess

import pytest
import torch
from conftest import PROGRAM, baton
from hf_models import FAMILIES, make_model
from safetensors.torch import load_file, save_file


def doctor(folder):
    """The report and the exit code."""
    command = [PROGRAM, "doctor", folder, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(result.stdout)
    assert result.returncode == (0 if report["healthy"] else 1), result.stderr
    assert report["healthy"] == (result.stderr == ""), result.stderr
    return report


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_healthy_folders(family, dtype, tmp_path):
    make_model(family, 1).to(dtype).save_pretrained(tmp_path)
    report = doctor(tmp_path)
    assert report["healthy"], report["problems"]
    facts = report["facts"]
    assert facts["family"] == family
    assert family in facts["exports as"]
    assert set(facts["pattern"]) <= set("M*-")
    assert facts["parameters"] > 0


def test_a_run_is_healthy(trained):
    report = doctor(trained)
    assert report["healthy"], report["problems"]
    assert report["facts"]["kind"] == "checkpoint of Baton"
    assert report["facts"]["tokenizer"] == "byte"
    assert "healthy" in baton("doctor", trained).stdout


@pytest.fixture
def folder(tmp_path):
    model = make_model("bamba", 0)
    model.save_pretrained(tmp_path)
    return tmp_path


def test_all_trouble_with_tensors_is_listed(folder):
    names = load_file(folder / "model.safetensors")
    mixer = next(name for name in names if name.endswith(".A_log")).removesuffix(".A_log")

    def change(tensors):
        del tensors[f"{mixer}.A_log"]
        tensors[f"{mixer}.D"] = torch.zeros(3)
        tensors["model.final_layernorm.weight"][0] = float("nan")
        tensors["model.extra"] = torch.zeros(2)

    change_tensors(folder, change)
    problems = "\n".join(doctor(folder)["problems"])
    assert f"missing tensor: {mixer}.A_log" in problems
    assert f"wrong shape: {mixer}.D has shape [3]" in problems
    assert "NaN or infinite values: model.final_layernorm.weight" in problems
    assert "unused tensor: model.extra" in problems


def test_config_trouble(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["some_new_key"] = 3
    path.write_text(json.dumps(config))
    report = doctor(folder)
    assert report["healthy"]
    assert any("some_new_key" in note for note in report["notes"])
    config["hidden_act"] = "relu"
    path.write_text(json.dumps(config))
    assert "hidden_act" in doctor(folder)["problems"][0]
    path.write_text("{")
    assert "config.json" in doctor(folder)["problems"][0]


def test_a_tokenizer_with_more_ids_than_rows(folder):
    vocabulary = {f"w{i}": i for i in range(500)}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
    )
    assert "the tokenizer has 500 ids" in "\n".join(doctor(folder)["problems"])
