# SPDX-License-Identifier: Apache-2.0
"""--device and run.device: one line where the device cannot be had."""

import pytest
from conftest import refused


def on_device(trained, corpus, tmp_path, recipe):
    """Commands that take --device, but for it."""
    return {
        "train": ("train", recipe),
        "generate": ("generate", trained, "--prompt", "a"),
        "eval": ("eval", trained, "--data", corpus / "data_valid"),
        "logits": ("logits", trained, "--tokens", "1,2", "--out", tmp_path / "out"),
        "doctor": ("doctor", trained),
    }


@pytest.mark.parametrize("command", ["train", "generate", "eval", "logits", "doctor"])
def test_refusals_name_the_option_and_the_reason(command, trained, corpus, tmp_path, recipe):
    arguments = on_device(trained, corpus, tmp_path, recipe)[command]
    key = "run.device" if command == "train" else "--device"
    # On a machine with GPUs too: none has a hundred.
    line = refused(*arguments, "--device", "cuda:99")
    assert line.startswith(f"error: {key} is cuda:99, but ")
    line = refused(*arguments, "--device", "tpu")
    assert line == f'error: {key} must be cpu, cuda or cuda:N, got "tpu"'
    assert not (tmp_path / "run").exists()


def test_the_recipe_names_a_device_too(recipe):
    line = refused("train", recipe, "--set", "run.device=cuda:99")
    assert line.startswith("error: run.device is cuda:99, but ")
