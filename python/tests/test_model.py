# SPDX-License-Identifier: Apache-2.0
"""baton.load against transformers on the same folders, and against the program on Baton's own."""

import json
import math
import os
import pathlib
import subprocess
import sys

import baton
import pytest
import torch

pytest.importorskip("transformers")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "commands"))
import hf_models  # noqa: E402

PROGRAM = pathlib.Path(os.environ.get("BATON_PROGRAM", ROOT / "build" / "apps" / "baton"))
pytestmark = pytest.mark.skipif(
    not baton.library_path().with_name("libbaton.so").is_file(), reason="needs libbaton.so"
)
# Two orders of summation through a few layers, relative to the spread of the logits.
LOGITS = 2e-4
# transformers' torch path takes the gated norm over all channels, but for nemotron_h.
AS_THERE = {"nemotron_h": {}}
LIKE_TORCH_PATH = {"mamba.norm_groups": 1}


@pytest.fixture(scope="module", params=hf_models.FAMILIES)
def pair(request, tmp_path_factory):
    """(transformers' model, Baton's) of one family."""
    model = hf_models.make_model(request.param, 1).eval()
    for module in model.modules():
        if hasattr(module, "A_log"):
            module.chunk_size = 16  # the torch path fills up to whole chunks of its 256
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, baton.load(folder, settings=AS_THERE.get(request.param, LIKE_TORCH_PATH))


def tokens_of(model, rows=2, length=23):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator)


def difference(ours, judge):
    return ((ours - judge).abs().max() / judge.std()).item()


def test_logits_of_rows_and_of_packed_tokens(pair):
    judge, model = pair
    tokens = tokens_of(judge)
    with torch.no_grad():
        expected = judge(tokens).logits
    logits = model.logits(tokens)
    assert logits.shape == expected.shape and logits.requires_grad
    assert difference(logits, expected) < LOGITS
    packed = torch.cat([tokens[0], tokens[1, :9]])
    logits = model.logits(packed.int(), starts=torch.tensor([0, 23, 23, 32]))
    assert difference(logits[:23], expected[0]) < LOGITS
    assert difference(logits[23:], expected[1, :9]) < LOGITS


def test_loss(pair):
    judge, model = pair
    tokens = tokens_of(judge)
    with torch.no_grad():
        expected = judge(tokens, labels=tokens).loss
    torch.testing.assert_close(model.loss(tokens), expected, rtol=1e-5, atol=1e-5)
    shifted = tokens.roll(-1, 1)
    shifted[:, -1] = -100
    torch.testing.assert_close(model.loss(tokens, shifted), model.loss(tokens))
    packed = model.loss(tokens.flatten(), starts=torch.tensor([0, 23, 46, 46]))
    torch.testing.assert_close(packed, model.loss(tokens))
    assert math.isnan(model.loss(tokens, torch.full_like(tokens, -100)).item())


def test_greedy_generation_follows_the_logits(pair):
    judge, model = pair
    prompts = [tokens_of(judge)[0, :7].tolist(), tokens_of(judge)[1, :3].tolist()]
    generated = model.generate(prompts, max_new_tokens=6, temperature=0, end_tokens=[])
    for prompt, new in zip(prompts, generated):
        assert len(new) == 6
        logits = model.logits(torch.tensor(prompt + new))[len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == new
        assert model.generate(prompt, max_new_tokens=6, temperature=0, end_tokens=[]) == new
        ended = model.generate(prompt, max_new_tokens=6, temperature=0, end_tokens=[new[3]])
        assert ended == new[: new.index(new[3])]


def test_draws_depend_on_the_seed_alone(pair):
    judge, model = pair
    prompt = tokens_of(judge)[0, :5].tolist()
    one, two = (model.generate([prompt, prompt], max_new_tokens=8, seed=3) for _ in range(2))
    assert one == two and one[0] != one[1]
    assert model.generate([prompt, prompt], max_new_tokens=8, seed=4) != one


def test_parameters_are_the_models_own_and_receive_gradients(pair):
    judge, model = pair
    tokens = tokens_of(judge)
    parameters = model.parameters()
    assert sum(p.numel() for p in parameters.values()) == sum(p.numel() for p in judge.parameters())
    head = parameters.get("lm_head.weight", parameters["embedding.weight"])
    before, kept = model.logits(tokens), head.clone()
    with torch.no_grad():
        head.mul_(2)
    assert not torch.equal(model.logits(tokens), before)
    with torch.no_grad():
        head.copy_(kept)
    gradients = torch.autograd.grad(model.loss(tokens), list(parameters.values()))
    judge_loss = judge(tokens, labels=tokens).loss
    judged = torch.autograd.grad(judge_loss, judge.get_output_embeddings().weight)[0]
    ours = dict(zip(parameters, gradients))
    ours = ours.get("lm_head.weight", ours["embedding.weight"])
    assert difference(ours, judged) < 1e-3
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.skipif(not PROGRAM.is_file(), reason="needs the program")
def test_a_checkpoint_of_batons_own(pair, tmp_path):
    judge, model = pair
    source, own = tmp_path / "hf", tmp_path / "own"
    judge.save_pretrained(source)
    subprocess.run([PROGRAM, "convert", source, own, "--to", "baton"], check=True)
    there, here = baton.load(source), baton.load(own)
    tokens = tokens_of(judge)
    assert torch.equal(there.logits(tokens), here.logits(tokens))


def test_text(tmp_path):
    """A folder with a tokenizer takes and gives text."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = ["<unk>", "</s>", *"abcdefgh ", "ab"]
    kind = tokenizers.models.BPE({t: i for i, t in enumerate(letters)}, [("a", "b")])
    tokenizer = tokenizers.Tokenizer(kind)
    tokenizer.decoder = tokenizers.decoders.Fuse()
    judge = hf_models.make_model("mamba2", 1)
    judge.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = baton.load(tmp_path)
    assert model.encode("abc a") == [11, 4, 10, 2]
    assert model.decode([11, 4]) == "abc"
    text = model.generate("abc", max_new_tokens=4, temperature=0)
    assert isinstance(text, str)
    both = model.generate(["abc", [11, 4]], max_new_tokens=4, temperature=0)
    assert both[0] == text and model.decode(both[1]) == text


def test_repr_and_config(pair):
    _, model = pair
    assert model.config["width"] > 0 and model.vocabulary == model.config["vocabulary"]
    assert repr(model).endswith("fp32 on cpu)")


def test_bad_arguments(pair):
    judge, model = pair
    vocabulary, tokens = model.vocabulary, torch.tensor([1, 2, 3])
    cases = {
        f"token id {vocabulary} is outside the vocabulary of {vocabulary}": lambda: model.logits(
            torch.tensor([0, vocabulary])
        ),
        "tokens must be int32 or int64, got torch.float32": lambda: model.logits(tokens.float()),
        "tokens must have dims [tokens], or [batch, seqlen] without starts, got shape [1, 3]": (
            lambda: model.logits(tokens[None], starts=torch.tensor([0, 3]))
        ),
        "starts must rise from 0 to the number of tokens (3), got 0 ... 2": lambda: model.logits(
            tokens, starts=torch.tensor([0, 2])
        ),
        "labels must have the shape of tokens = [3], got [2]": lambda: model.loss(
            tokens, tokens[:2]
        ),
        "the prompt is empty": lambda: model.generate([[]]),
        "temperature must be at least 0: -1": lambda: model.generate([1], temperature=-1),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError) as caught:
        baton.load("/nowhere/model")
    assert str(caught.value) == "/nowhere/model: no such folder"
    hf_models.make_model("mamba2", 0).save_pretrained(tmp_path)
    for settings, message in (
        ({"mamba.norm_group": 1}, "settings: unknown key 'model.mamba.norm_group'"),
        ({"dtype": "fp8"}, "dtype"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            baton.load(tmp_path, settings=settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="device: .*meta|device meta|device"):
        baton.load(tmp_path, device="meta")
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        baton.load(tmp_path)
