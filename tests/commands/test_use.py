# SPDX-License-Identifier: Apache-2.0
"""baton eval, generate, logits, pattern on a trained model."""

import json
import math
import struct

from conftest import baton, metrics, refused


def read_tensor(path):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    entry = json.loads(content[8 : 8 + size])["logits"]
    assert entry["dtype"] == "F32"
    begin, end = entry["data_offsets"]
    values = struct.unpack(f"<{(end - begin) // 4}f", content[8 + size + begin : 8 + size + end])
    return entry["shape"], values


def test_eval_agrees_with_training(trained, corpus):
    result = json.loads(
        baton("eval", trained, "--data", corpus / "data_valid", "--max-tokens", 500, "--json").stdout
    )
    assert math.isclose(result["loss"], metrics(trained)[-1]["valid_loss"], rel_tol=1e-6)
    assert math.isclose(result["perplexity"], math.exp(result["loss"]))
    assert result["bits_per_byte"] > 0


def test_generate_is_repeatable_and_stops(trained):
    options = ["generate", trained, "--prompt", "the baton", "--max-new-tokens", 40, "--seed", 3]
    first = json.loads(baton(*options, "--json").stdout)
    second = json.loads(baton(*options, "--json").stdout)
    assert first == second
    assert first["prompt"] == "the baton"
    streamed = baton(*options).stdout
    assert streamed == "the baton" + first["text"] + "\n"
    if first["text"]:
        stop = first["text"][0]
        assert json.loads(baton(*options, "--stop", stop, "--json").stdout)["text"] == ""


def test_greedy_generation_follows_the_logits(trained, tmp_path):
    prompt = "the state"
    result = json.loads(
        baton("generate", trained, "--prompt", prompt, "--max-new-tokens", 12, "--temperature", 0,
              "--json").stdout
    )
    ids = list(prompt.encode()) + result["tokens"]
    out = tmp_path / "logits.safetensors"
    baton("logits", trained, "--tokens", ",".join(map(str, ids)), "--out", out)
    (rows, vocabulary), values = read_tensor(out)
    assert rows == len(ids)
    for position in range(len(prompt), len(ids)):
        row = values[(position - 1) * vocabulary : position * vocabulary]
        assert row[ids[position]] >= max(row) - 1e-4


def test_bad_use_gets_one_line(trained, corpus, tmp_path):
    assert "empty" in refused("generate", trained, "--prompt", "")
    assert "nothing_here" in refused("generate", tmp_path / "nothing_here", "--prompt", "a")
    assert "vocabulary" in refused("logits", trained, "--tokens", "1,99999", "--out",
                                   tmp_path / "x.safetensors")
    assert "no_data" in refused("eval", trained, "--data", tmp_path / "no_data")
    assert "temperature" in refused("generate", trained, "--prompt", "a", "--temperature", "-1")


def test_pattern_prints_for_people_and_programs():
    result = json.loads(
        baton("pattern", "M*M-|M*M-/M*", "--pipeline", 2, "--virtual", 1, "--json").stdout
    )
    assert result["layers"] == "M*M-M*M-"
    assert result["mtp"] == {"pattern": "M*", "depth": 1}
    assert [stage["offset"] for stage in result["stages"]] == [0, 4]
    people = baton("pattern", "--layers", 48, "--attention-ratio", "0.08", "--mlp-ratio", "0.5")
    assert "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-" in people.stdout
    assert "3" in refused("pattern", "MMX")


def test_bench_prints_its_figures(recipe):
    result = json.loads(
        baton("bench", recipe, "--set", "model.vocabulary=320", "--tokens", 64, "--repeats", 1,
              "--decode-tokens", 4, "--json").stdout
    )
    assert result["pattern"] == "M-*M" and result["tokens"] == 64
    for key in "train_step_over_products", "decode_share_of_read_rate", "train_tokens_per_second":
        assert result[key] > 0
    assert "model.vocabulary" in refused("bench", recipe)
