# SPDX-License-Identifier: Apache-2.0
"""baton convert, and training from a Hugging Face folder."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import RECIPE, baton, metrics, refused
from hf_models import FAMILIES, logits_of, make_model, random_tokens
from safetensors.torch import load_file, save_file


def read_folder(folder):
    """All tensors of a folder, whole or in shards."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def assert_same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def logits(folder, tokens, tmp_path, *options):
    text = ",".join(map(str, tokens))
    baton("logits", folder, "--tokens", text, "--out", tmp_path / "out", *options)
    return load_file(tmp_path / "out")["logits"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_keeps_every_bit(family, dtype, tmp_path):
    model = make_model(family, 2).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    baton("convert", tmp_path / "theirs", tmp_path / "ours", "--to", "baton")
    baton("convert", tmp_path / "ours", tmp_path / "again", "--to", "hf")
    assert_same_tensors(read_folder(tmp_path / "again"), read_folder(tmp_path / "theirs"))
    assert config_of(tmp_path / "again") == config_of(tmp_path / "theirs")
    tokens = random_tokens(model, 40, 3)
    again, first = (type(model).from_pretrained(tmp_path / name) for name in ("again", "theirs"))
    assert torch.equal(logits_of(again, tokens), logits_of(first, tokens))
    assert torch.equal(
        logits(tmp_path / "ours", tokens, tmp_path), logits(tmp_path / "theirs", tokens, tmp_path)
    )


def test_wide_parameters_of_a_narrow_model_stay_wide(tmp_path):
    """A_log in fp32 beside bf16, as some publish it: its bits would be lost in bf16."""
    make_model("mamba2", 0).bfloat16().save_pretrained(tmp_path / "theirs")
    tensors = read_folder(tmp_path / "theirs")
    for name in tensors:
        if name.endswith(("A_log", ".D", "dt_bias")):
            tensors[name] = tensors[name].float() + 1e-4
    save_file(tensors, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    baton("convert", tmp_path / "theirs", tmp_path / "ours", "--to", "baton")
    baton("convert", tmp_path / "ours", tmp_path / "again", "--to", "hf")
    assert_same_tensors(read_folder(tmp_path / "again"), tensors)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_shards_and_dtypes(dtype, tmp_path):
    model = make_model("bamba", 3)
    model.save_pretrained(tmp_path / "theirs")
    options = ["--to", "hf", "--dtype", dtype, "--shard-size", "30KB"]
    baton("convert", tmp_path / "theirs", tmp_path / "again", *options)
    assert len(list((tmp_path / "again").glob("model-*-of-*.safetensors"))) > 2
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype="auto")
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert loaded.dtype == wanted
    tokens = random_tokens(model, 30, 1)
    # Values of bf16 within fp16's range lose nothing in either.
    assert torch.allclose(logits_of(loaded.float(), tokens), logits_of(model, tokens), atol=2e-3)
    found = logits(tmp_path / "again", tokens, tmp_path, "--set", "model.mamba.norm_groups=1",
                   "--set", "model.dtype=fp32")
    assert torch.allclose(found, logits_of(model, tokens), atol=2e-3)


def test_a_family_that_cannot_hold_a_model_says_why(tmp_path):
    make_model("nemotron_h", 0).save_pretrained(tmp_path / "theirs")
    message = refused(
        "convert", tmp_path / "theirs", tmp_path / "out", "--to", "hf", "--family", "mamba2"
    )
    assert "model.pattern" in message
    assert not (tmp_path / "out").exists()
    assert "nemotron_h" in refused(
        "convert", tmp_path / "theirs", tmp_path / "out", "--to", "hf", "--family", "llama"
    )
    assert "is there already" in refused(
        "convert", tmp_path / "theirs", tmp_path / "theirs", "--to", "hf"
    )


def test_mamba_ssm_layout(tmp_path):
    model = make_model("mamba2", 0)
    model.save_pretrained(tmp_path / "theirs")
    options = ["--to", "hf", "--family", "state_spaces"]
    baton("convert", tmp_path / "theirs", tmp_path / "own", *options)
    config = config_of(tmp_path / "own")
    assert config["ssm_cfg"]["layer"] == "Mamba2" and "model_type" not in config
    assert "backbone.embedding.weight" in read_folder(tmp_path / "own")
    tokens = random_tokens(model, 30, 1)
    found = logits(tmp_path / "own", tokens, tmp_path)
    assert torch.equal(found, logits(tmp_path / "theirs", tokens, tmp_path))
    baton("convert", tmp_path / "own", tmp_path / "back", "--to", "hf", "--family", "mamba2")
    assert_same_tensors(read_folder(tmp_path / "back"), read_folder(tmp_path / "theirs"))


def test_older_configs_are_understood(tmp_path):
    model = make_model("nemotron_h", 0)
    model.save_pretrained(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    config = config_of(tmp_path / "new")
    symbols = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}
    config["hybrid_override_pattern"] = "".join(symbols[k] for k in config.pop("layers_block_type"))
    config["torch_dtype"] = config.pop("dtype")
    config["attention_head_dim"] = config.pop("head_dim")
    config["time_step_limit"] = [0.0, "INFINITY"]
    text = json.dumps(config).replace('"INFINITY"', "Infinity")
    (tmp_path / "old" / "config.json").write_text(text)
    tokens = random_tokens(model, 30, 1)
    found = logits(tmp_path / "old", tokens, tmp_path)
    assert torch.equal(found, logits(tmp_path / "new", tokens, tmp_path))




def test_what_baton_trained_loads_in_transformers(corpus, tmp_path):
    recipe = tmp_path / "recipe.toml"
    text = RECIPE.format(folder=corpus).replace(f"{corpus}/run", f"{tmp_path}/run")
    recipe.write_text(text + "\n[model.attention.rotary]\nenabled = false\n")
    baton("train", recipe)
    baton("convert", tmp_path / "run", tmp_path / "theirs", "--to", "hf")
    assert config_of(tmp_path / "theirs")["model_type"] == "nemotron_h"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    for module in loaded.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    tokens = list(b"the baton goes from hand to hand")
    wanted = logits_of(loaded, tokens)
    found = logits(tmp_path / "run", tokens, tmp_path)
    assert (found - wanted).abs().max() < 2e-4 * wanted.std()


def test_training_starts_from_a_folder(corpus, tmp_path):
    torch.manual_seed(0)
    config = transformers.BambaConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        attn_layer_indices=[1],
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
    )
    transformers.BambaForCausalLM(config).save_pretrained(tmp_path / "theirs")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
[run]
folder = "{tmp_path}/run"
start_from = "{tmp_path}/theirs"
threads = 1
[data]
train = "{corpus}/data_train"
valid = "{corpus}/data_valid"
tokens_per_microbatch = 96
[model]
dropout = 0.1
[train]
steps = 8
tokens_per_step = 192
lr = 3e-3
warmup_steps = 2
eval_interval = 4
eval_tokens = 500
[checkpoint]
interval = 4
"""
    )
    # A learning rate of zero leaves the weights as they were: the folder's, not random ones.
    still = ["--set", f"run.folder={tmp_path}/still", "--set", "train.lr=0", "--set",
             "train.min_lr=0", "--set", "train.steps=2"]
    baton("train", recipe, *still)
    tokens = list(b"the state")
    assert torch.equal(
        logits(tmp_path / "still", tokens, tmp_path), logits(tmp_path / "theirs", tokens, tmp_path)
    )
    baton("train", recipe)
    losses = [line["valid_loss"] for line in metrics(tmp_path / "run") if "valid_loss" in line]
    assert losses[-1] < losses[0]
    baton("convert", tmp_path / "run", tmp_path / "tuned", "--to", "hf", "--family", "bamba")
    tuned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    wanted = logits_of(tuned, tokens)
    assert (logits(tmp_path / "run", tokens, tmp_path) - wanted).abs().max() < 1e-3 * wanted.std()
