# SPDX-License-Identifier: Apache-2.0
"""transformers' hybrids before and after the one import: logits, generation, training.

The judge is transformers' own torch path in fp32 on the same weights. Freshly initialised models
hardly use their scan, so every parameter gets a real spread first.
"""

import copy
import pathlib
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "commands"))
import baton.transformers as switch  # noqa: E402
import hf_models  # noqa: E402

# Two orders of summation over a chunk of the scan, through a few layers; relative to the spread of
# the logits.
LOGITS = 2e-4
# Twenty steps on top of that.
LOSS = 2e-4


@pytest.fixture(autouse=True)
def switched_back():
    switch.restore()
    yield
    switch.restore()


def model_of(family, index=1):
    torch.manual_seed(index)
    model = hf_models.make_model(family, index)
    for module in model.modules():
        if hasattr(module, "A_log"):
            module.chunk_size = 16  # the torch path fills up to whole chunks of its 256
    return model.eval()


def tokens_for(model, rows=2, length=37):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator)


def difference(ours, judge):
    return ((ours - judge).abs().max() / judge.std()).item()


@pytest.mark.parametrize("family", switch.FAMILIES)
@pytest.mark.parametrize("index", range(hf_models.NUM_MODELS))
def test_logits(family, index):
    model = model_of(family, index)
    tokens = tokens_for(model)
    with torch.no_grad():
        judge = model(tokens).logits
        switch.use()
        ours = model(tokens).logits
    assert not torch.equal(ours, judge), "the switch did nothing"
    assert difference(ours, judge) < LOGITS


@pytest.mark.parametrize("family", switch.FAMILIES)
def test_logits_behind_padding_on_the_left(family):
    model = model_of(family)
    tokens = tokens_for(model)
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    with torch.no_grad():
        judge = model(tokens, attention_mask=mask).logits
        switch.use()
        ours = model(tokens, attention_mask=mask).logits
    valid = mask.bool()
    assert difference(ours[valid], judge[valid]) < LOGITS


@pytest.mark.parametrize("family", switch.FAMILIES)
def test_generation_through_the_cache(family):
    model = model_of(family)
    prompt = tokens_for(model, length=19)
    options = dict(
        max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    judge = model.generate(prompt, **options)
    switch.use()
    ours = model.generate(prompt, **options)
    assert torch.equal(ours.sequences, judge.sequences)
    for step, expected in zip(ours.logits, judge.logits):
        assert difference(step, expected) < LOGITS


@pytest.mark.parametrize("family", switch.FAMILIES)
def test_bf16_is_no_further_from_fp32_than_the_torch_path(family):
    model = model_of(family)
    tokens = tokens_for(model)
    half = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        exact = model(tokens).logits
        torch_path = half(tokens).logits.float()
        switch.use()
        ours = half(tokens).logits.float()
    error = (ours - exact).square().mean().sqrt()
    # The same rounding of weights dominates both.
    assert error < 1.5 * (torch_path - exact).square().mean().sqrt()


def losses_of_training(model, steps=20):
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(model.config.vocab_size, (2, 33), generator=generator)
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.parametrize("family", switch.FAMILIES)
@pytest.mark.parametrize("index", [0, 1])
def test_loss_of_twenty_training_steps(family, index):
    model = model_of(family, index)
    judge = losses_of_training(model)
    switch.use()
    ours = losses_of_training(model)
    assert (judge[0] - judge[-1]).abs() > 0.01, "nothing was learnt"
    assert ((ours - judge).abs() / judge).max().item() < LOSS


@pytest.mark.parametrize("family", switch.FAMILIES)
def test_packed_documents_do_not_see_each_other(family):
    """What the import adds: with seq_idx a mixer gives each document's own output."""
    model = model_of(family)
    mixer = next(module for module in model.modules() if hasattr(module, "A_log"))
    switch.use()
    hidden = torch.randn(1, 30, model.config.hidden_size)
    seq_idx = torch.tensor([[0] * 11 + [1] * 19], dtype=torch.int32)
    with torch.no_grad():
        packed = mixer(hidden, seq_idx=seq_idx)
        for part in (slice(0, 11), slice(11, 30)):
            assert difference(packed[:, part], mixer(hidden[:, part])) < LOGITS
        assert difference(packed, mixer(hidden)) > 100 * LOGITS


def test_restore_brings_the_torch_path_back():
    model = model_of("mamba2")
    tokens = tokens_for(model)
    with torch.no_grad():
        judge = model(tokens).logits
        switch.use()
        switch.use()
        switch.restore()
        assert torch.equal(model(tokens).logits, judge)


def test_other_code_than_the_known_is_refused_whole(monkeypatch):
    from transformers.models.granitemoehybrid import modeling_granitemoehybrid
    from transformers.models.mamba2 import modeling_mamba2

    before = modeling_mamba2.causal_conv1d_fn
    monkeypatch.delattr(modeling_granitemoehybrid, "mamba2_chunk_scan")
    with pytest.raises(ImportError, match="does not know transformers .* has no mamba2_chunk_scan"):
        switch.use()
    assert modeling_mamba2.causal_conv1d_fn is before
