# SPDX-License-Identifier: Apache-2.0
"""Equal logits from Baton and transformers on the same Hugging Face folder."""

import copy

import pytest
import torch
from conftest import baton
from hf_models import (
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
from safetensors.torch import load_file

MODELS = [(family, index) for family in FAMILIES for index in range(NUM_MODELS)]


def baton_logits(folder, out, sequences, *options):
    tokens = [f"--tokens={','.join(map(str, sequence))}" for sequence in sequences]
    baton("logits", folder, *tokens, "--out", out, "--threads", 1, *options)
    return load_file(out)["logits"]


@pytest.mark.parametrize("family, index", MODELS)
def test_fp32_logits_are_equal(family, index, tmp_path):
    model = make_model(family, index)
    model.save_pretrained(tmp_path / "model")
    sequences = [random_tokens(model, length, length) for length in (70, 1, 33, 2)]
    wanted = torch.cat([logits_of(model, sequence) for sequence in sequences])
    options = norm_as_transformers_runs_it(family)
    for prefill in (0, 1, 20):
        found = baton_logits(
            tmp_path / "model", tmp_path / "out", sequences, "--prefill", prefill, *options
        )
        assert largest_difference(found, wanted) < FP32_TOLERANCE, f"prefill {prefill}"


@pytest.mark.parametrize("family, index", MODELS)
def test_bf16_logits_are_no_further_off(family, index, tmp_path):
    model = make_model(family, index)
    tokens = random_tokens(model, 96, 1)
    wanted = logits_of(model, tokens)
    narrow = copy.deepcopy(model).bfloat16()
    narrow.save_pretrained(tmp_path / "model")
    found = baton_logits(
        tmp_path / "model", tmp_path / "out", [tokens], *norm_as_transformers_runs_it(family)
    )
    error = typical_difference(logits_of(narrow, tokens), wanted)
    assert typical_difference(found, wanted) <= BF16_FACTOR * error


@pytest.mark.parametrize("family", ["mamba2", "bamba", "granitemoehybrid"])
def test_grouped_norm_is_that_of_the_kernels(family, tmp_path):
    """With n_groups, transformers' CUDA kernels and mamba_ssm take the norm group by group."""
    model = make_model(family, 1)
    groups = getattr(model.config, "n_groups", None) or model.config.mamba_n_groups
    assert groups > 1

    def grouped(norm, hidden, gate):
        gated = (hidden * torch.nn.functional.silu(gate)).unflatten(-1, (groups, -1))
        scale = torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        return norm.weight * (gated * scale).flatten(-2)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNormGated"):
            module.forward = grouped.__get__(module)
    model.save_pretrained(tmp_path / "model")
    tokens = random_tokens(model, 50, 1)
    found = baton_logits(tmp_path / "model", tmp_path / "out", [tokens])
    assert largest_difference(found, logits_of(model, tokens)) < FP32_TOLERANCE


def test_dt_limits_can_be_set(tmp_path):
    """transformers raises Nemotron-H's dt to time_step_min; the config's limits say not to."""
    model = make_model("nemotron_h", 0)
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.2, 0.9)
    model.save_pretrained(tmp_path / "model")
    tokens = random_tokens(model, 50, 1)
    found = baton_logits(
        tmp_path / "model",
        tmp_path / "out",
        [tokens],
        "--set",
        "model.mamba.dt_min=0.2",
        "--set",
        "model.mamba.dt_max=0.9",
    )
    wanted = logits_of(model, tokens)
    assert largest_difference(found, wanted) < FP32_TOLERANCE
    plain = baton_logits(tmp_path / "model", tmp_path / "out", [tokens])
    assert largest_difference(plain, wanted) > 100 * FP32_TOLERANCE
