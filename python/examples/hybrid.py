# SPDX-License-Identifier: Apache-2.0
"""A hybrid of transformers before and after one import: its logits, its loss and its speed.

The model is made here with random weights, so that nothing is fetched; one that was loaded with
`from_pretrained` is switched in the same way. It runs on a GPU where there is one.

    python python/examples/hybrid.py [TOKENS]
"""

import sys
import time

import torch
import transformers


def small_hybrid():
    """Two Mamba-2 layers and one of attention, each with an MLP, in the shape of Bamba."""
    torch.manual_seed(0)
    config = transformers.BambaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=3,
        attn_layer_indices=[1], num_attention_heads=4, num_key_value_heads=2, mamba_n_heads=8,
        mamba_d_head=64, mamba_n_groups=1, mamba_d_state=64, mamba_expand=2,
    )  # fmt: skip
    model = transformers.BambaForCausalLM(config)
    with torch.no_grad():  # fresh models hardly use their scan; give it weight
        for name, value in model.named_parameters():
            if name.endswith(("dt_bias", "A_log", ".D")):
                value.copy_(torch.randn_like(value))
    return model


def seconds(function, repeats=2):
    """The best of some runs, after one that does not count."""
    best = None
    for i in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        passed = time.perf_counter() - began
        if i > 0:
            best = passed if best is None else min(best, passed)
    return best, result


def measure(model, tokens):
    def prefill():
        with torch.no_grad():
            return model(tokens).logits

    def train():
        model.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        return loss.detach()

    def decode():
        return model.generate(
            tokens[:, :16], max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0
        )

    return {
        "prefill": seconds(prefill),
        "training step": seconds(train),
        "32 tokens": seconds(decode),
    }


def main():
    transformers.logging.set_verbosity_error()
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = small_hybrid().to(device)
    tokens = torch.randint(1, 1000, (1, length), device=device)

    before = measure(model, tokens)
    import baton.transformers  # noqa: F401  from here on the same model runs on Baton's kernels

    after = measure(model, tokens)

    print(f"Bamba's form, {length} tokens, fp32 on {device}, torch {torch.__version__}")
    for name in before:
        old, new = before[name][0], after[name][0]
        print(f"{name:15s} {old * 1e3:9.1f} ms before {new * 1e3:9.1f} ms after {old / new:6.1f} times")
    judge, logits = before["prefill"][1], after["prefill"][1]
    difference = ((logits - judge).abs().max() / judge.std()).item()
    loss = abs(after["training step"][1] - before["training step"][1]).item()
    same = torch.equal(before["32 tokens"][1], after["32 tokens"][1])
    print(f"largest difference of logits, over their deviation: {difference:.1e}")
    print(f"difference of the loss: {loss:.1e}; the same 32 tokens: {same}")
    return 0 if difference < 1e-3 and loss < 1e-4 and same else 1


if __name__ == "__main__":
    sys.exit(main())
