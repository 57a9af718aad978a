# SPDX-License-Identifier: Apache-2.0
"""Random models of the families that Baton exchanges with transformers."""

import random

import torch
import transformers
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

FAMILIES = ["nemotron_h", "mamba2", "bamba", "granitemoehybrid"]
# What each of the random models has at least once.
GROUPS = [1, 2, 3, 1, 4, 2]
HEAD_DIMS = [16, 8, 24, 64, 8, 32]
STATES = [16, 64, 24, 256, 128, 40]
KERNELS = [4, 3, 2, 4, 4, 3]
NUM_MODELS = len(GROUPS)


def _mixer(index, draw):
    groups = GROUPS[index]
    heads = groups * draw.choice([1, 2])
    return groups, heads, HEAD_DIMS[index], STATES[index], KERNELS[index]


def _width(heads, head_dim, attention_heads):
    """A width of which the mixer is a multiple and that gives attention heads of 8 channels or more."""
    inner = heads * head_dim
    for expand in (4, 2):
        if inner % (expand * 8 * attention_heads) == 0:
            return inner // expand, expand
    return inner, 1


def _types(draw, count):
    kinds = [draw.choice(["linear_attention", "full_attention"]) for _ in range(count)]
    kinds[draw.randrange(count)] = "linear_attention"
    kinds[-1] = "full_attention" if "full_attention" not in kinds else kinds[-1]
    return kinds


def _nemotron_h(index, draw):
    groups, heads, head_dim, state, kernel = _mixer(index, draw)
    layers = ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"]
    draw.shuffle(layers)
    return NemotronHForCausalLM(
        NemotronHConfig(
            vocab_size=draw.randrange(50, 200),
            hidden_size=draw.randrange(17, 70),
            layers_block_type=layers,
            num_attention_heads=4,
            num_key_value_heads=draw.choice([1, 2, 4]),
            head_dim=draw.choice([8, 12, 20]),
            intermediate_size=draw.randrange(30, 90),
            mlp_hidden_act=draw.choice(["relu2", "gelu_pytorch_tanh"]),
            mlp_bias=index % 2 == 1,
            ssm_state_size=state,
            mamba_num_heads=heads,
            mamba_head_dim=head_dim,
            n_groups=groups,
            conv_kernel=kernel,
            use_conv_bias=index % 3 != 1,
            use_bias=index % 2 == 0,
            tie_word_embeddings=False,
            time_step_min=1e-9,  # which transformers takes for a limit of dt
        )
    )


def _mamba2(index, draw):
    groups, heads, head_dim, state, kernel = _mixer(index, draw)
    width, expand = _width(heads, head_dim, 1)
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=draw.randrange(50, 200),
            hidden_size=width,
            expand=expand,
            num_hidden_layers=3,
            num_heads=heads,
            head_dim=head_dim,
            n_groups=groups,
            state_size=state,
            conv_kernel=kernel,
            use_bias=index % 2 == 1,
            use_conv_bias=index % 3 != 1,
            tie_word_embeddings=index % 2 == 0,
            time_step_limit=(0.0, float("inf")) if index % 2 == 0 else (0.01, 0.5),
        )
    )


def _bamba(index, draw):
    groups, heads, head_dim, state, kernel = _mixer(index, draw)
    attention_heads = draw.choice([2, 4]) if heads * head_dim % 64 == 0 else 2
    width, expand = _width(heads, head_dim, attention_heads)
    kinds = _types(draw, 3)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if index % 3 == 1:
        rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
    if index % 3 == 2:
        rope = {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    return BambaForCausalLM(
        BambaConfig(
            vocab_size=draw.randrange(50, 200),
            hidden_size=width,
            mamba_expand=expand,
            num_hidden_layers=3,
            attn_layer_indices=[i for i, kind in enumerate(kinds) if kind == "full_attention"],
            num_attention_heads=attention_heads,
            num_key_value_heads=draw.choice([1, 2]),
            intermediate_size=draw.randrange(30, 90),
            max_position_embeddings=128,
            mamba_n_heads=heads,
            mamba_d_head=head_dim,
            mamba_n_groups=groups,
            mamba_d_state=state,
            mamba_d_conv=kernel,
            mamba_conv_bias=index % 3 != 1,
            mamba_proj_bias=index % 2 == 1,
            attention_bias=index % 2 == 0,
            mlp_bias=index % 3 == 0,
            tie_word_embeddings=index % 2 == 1,
            rope_parameters=rope,
        )
    )


def _granitemoehybrid(index, draw):
    groups, heads, head_dim, state, kernel = _mixer(index, draw)
    attention_heads = draw.choice([2, 4]) if heads * head_dim % 64 == 0 else 2
    width, expand = _width(heads, head_dim, attention_heads)
    return GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            vocab_size=draw.randrange(50, 200),
            hidden_size=width,
            mamba_expand=expand,
            num_hidden_layers=3,
            layer_types=_types(draw, 3),
            num_attention_heads=attention_heads,
            num_key_value_heads=draw.choice([1, 2]),
            shared_intermediate_size=draw.randrange(30, 90),
            num_local_experts=0,
            position_embedding_type="rope" if index % 2 == 0 else None,
            mamba_n_heads=heads,
            mamba_d_head=head_dim,
            mamba_n_groups=groups,
            mamba_d_state=state,
            mamba_d_conv=kernel,
            mamba_conv_bias=index % 3 != 1,
            mamba_proj_bias=index % 2 == 1,
            attention_bias=index % 2 == 0,
            tie_word_embeddings=index % 2 == 1,
            embedding_multiplier=draw.choice([1.0, 6.0]),
            logits_scaling=draw.choice([1.0, 3.0]),
            residual_multiplier=draw.choice([1.0, 0.3]),
            attention_multiplier=draw.choice([0.1, 0.3]),
        )
    )


def randomize(model, seed):
    """Weights with which the scan matters: decays of all lengths, inputs of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("A_log"):
                value.copy_(torch.log(torch.rand(value.shape, generator=generator) * 4 + 0.02))
            elif name.endswith("dt_bias"):
                value.copy_(noise - 2)
            elif name.endswith(".D"):
                value.copy_(noise)
            elif "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                value.copy_(0.3 * noise)
            elif "conv1d" in name:
                value.copy_(0.5 * noise)
            else:
                value.copy_(noise / value.shape[-1] ** 0.5)
            # So that models in fp32 and in bf16 are of the same values.
            value.copy_(value.bfloat16().float())
    return model.eval()


def make_model(family, index):
    """One of NUM_MODELS random models of a family, in fp32."""
    draw = random.Random(f"{family} {index}")
    torch.manual_seed(index)
    make = {
        "nemotron_h": _nemotron_h,
        "mamba2": _mamba2,
        "bamba": _bamba,
        "granitemoehybrid": _granitemoehybrid,
    }[family]
    return randomize(make(index, draw), index)


def random_tokens(model, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (length,), generator=generator).tolist()


def logits_of(model, tokens):
    """transformers' logits [tokens, vocabulary], fp32."""
    with torch.no_grad():
        return model(torch.tensor([tokens], device=model.device)).logits[0].float().cpu()


# Of the logits' standard deviation; both add in fp32, in another order.
FP32_TOLERANCE = 2e-4
# Rounding to bf16 in other places may cost as much again as transformers' own, not more.
BF16_FACTOR = 1.1


def norm_as_transformers_runs_it(family):
    """Its torch path takes the gated norm over all channels, except in Nemotron-H."""
    return [] if family == "nemotron_h" else ["--set", "model.mamba.norm_groups=1"]


def largest_difference(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


def typical_difference(found, wanted):
    """Over the vocabulary the root mean square, over the tokens the geometric mean: where the
    channels of a gated norm happen to be nearly zero a token shows any rounding up to 40 times as
    large, and such a token alone would decide."""
    return (found - wanted).pow(2).mean(1).sqrt().log().mean().exp().item()
