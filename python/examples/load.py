# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder without transformers: logits, loss, generation, and a step of training.

transformers only writes the folder here, with random weights; any folder of the families that
docs/huggingface.md lists will do.

    python python/examples/load.py [FOLDER]
"""

import sys
import tempfile

import baton
import torch


def example_folder():
    import transformers

    torch.manual_seed(0)
    config = transformers.NemotronHConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, mamba_num_heads=8, mamba_head_dim=16, n_groups=2,
        ssm_state_size=32, layers_block_type=["mamba", "mlp", "attention", "mlp"],
    )  # fmt: skip
    folder = tempfile.mkdtemp()
    transformers.NemotronHForCausalLM(config).save_pretrained(folder)
    return folder


def main():
    model = baton.load(sys.argv[1] if len(sys.argv) > 1 else example_folder())
    print(model)
    tokens = torch.randint(model.vocabulary, (2, 50))
    with torch.no_grad():
        logits, loss = model.logits(tokens), model.loss(tokens)
    targets = tokens[:, 1:].flatten()
    judge = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets)
    print(f"logits {list(logits.shape)}, loss {loss:.4f}, from the logits {judge:.4f}")
    print("greedy:", model.generate(tokens[0, :8].tolist(), max_new_tokens=8, temperature=0))

    optimizer = torch.optim.AdamW(model.parameters().values(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(tokens).backward()
        optimizer.step()
    with torch.no_grad():
        after = model.loss(tokens)
    print(f"after three steps on the same tokens: {after:.4f}")
    return 0 if abs(loss - judge) < 1e-3 and after < loss else 1


if __name__ == "__main__":
    sys.exit(main())
