# SPDX-License-Identifier: Apache-2.0
"""Mixers of transformers against the same mixers made of Baton's operators, fp32 on the CPU.

Freshly initialised mixers hardly use their scan, so every parameter gets a real spread first. Where
the families' published code differs from one another, the arguments of `baton_mixer` say how:
Mamba-2 and Bamba take the gated norm over all channels, NemotronH over each group, and NemotronH
raises dt to `time_step_min`.
"""

import math

import baton
import pytest
import torch

transformers = pytest.importorskip("transformers")
from transformers.models.bamba import modeling_bamba  # noqa: E402
from transformers.models.mamba2 import modeling_mamba2  # noqa: E402
from transformers.models.nemotron_h import modeling_nemotron_h  # noqa: E402

HIDDEN, HEADS, HEAD_DIM, GROUPS, STATE, TAPS, CHUNK = 32, 8, 8, 2, 16, 4, 16
INNER = HEADS * HEAD_DIM
NEMOTRON_DT_MIN = 0.05
# fp32: two orders of summation over a chunk of the scan and a row of the projections.
TOLERANCE = dict(rtol=2e-4, atol=2e-4)


def mamba2():
    config = transformers.Mamba2Config(
        hidden_size=HIDDEN, expand=2, num_heads=HEADS, head_dim=HEAD_DIM, n_groups=GROUPS,
        state_size=STATE, conv_kernel=TAPS, chunk_size=CHUNK, num_hidden_layers=1,
        layer_norm_epsilon=1e-5, time_step_limit=(0.02, 0.9),
    )  # fmt: skip
    return modeling_mamba2.Mamba2Mixer(config, layer_idx=0), INNER, (0.02, 0.9)


def bamba():
    config = transformers.BambaConfig(
        hidden_size=HIDDEN, mamba_expand=2, mamba_n_heads=HEADS, mamba_d_head=HEAD_DIM,
        mamba_n_groups=GROUPS, mamba_d_state=STATE, mamba_d_conv=TAPS, mamba_chunk_size=CHUNK,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
    )  # fmt: skip
    return modeling_bamba.BambaMixer(config, layer_idx=0), INNER, (0.0, math.inf)


def nemotron_h():
    config = transformers.NemotronHConfig(
        hidden_size=HIDDEN, mamba_num_heads=HEADS, mamba_head_dim=HEAD_DIM, n_groups=GROUPS,
        ssm_state_size=STATE, conv_kernel=TAPS, chunk_size=CHUNK, layers_block_type=["mamba"],
        layer_norm_epsilon=1e-5, time_step_min=NEMOTRON_DT_MIN,
    )  # fmt: skip
    mixer = modeling_nemotron_h.NemotronHMamba2Mixer(config, layer_idx=0)
    return mixer, INNER // GROUPS, (NEMOTRON_DT_MIN, math.inf)


def spread(mixer):
    """Values far from their start, so that gates, decays and norms all matter."""
    with torch.no_grad():
        for name, value in mixer.named_parameters():
            if name in ("D", "norm.weight"):
                value.copy_(1 + 0.5 * torch.randn_like(value))
            elif name == "dt_bias":
                value.copy_(torch.randn_like(value) - 1)
            elif name == "A_log":
                value.copy_(torch.randn_like(value))
            else:
                value.copy_(torch.randn_like(value) / math.sqrt(value[0].numel() if value.dim() > 1 else 4))
    return mixer.eval()


def baton_mixer(mixer, hidden, starts, norm_group, limits):
    """hidden [T, D] packed by `starts`, through the operators with `mixer`'s parameters."""
    tokens = hidden.shape[0]
    projected = mixer.in_proj(hidden)
    z, xbc, dt = projected.split([INNER, INNER + 2 * GROUPS * STATE, HEADS], dim=-1)
    xbc, _ = baton.ops.causal_conv1d(
        xbc, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, starts, None, None, True
    )
    x, b, c = xbc.split([INNER, GROUPS * STATE, GROUPS * STATE], dim=-1)
    y, _ = baton.ops.ssd(
        x.view(tokens, HEADS, HEAD_DIM),
        dt,
        -torch.exp(mixer.A_log.float()),
        b.view(tokens, GROUPS, STATE),
        c.view(tokens, GROUPS, STATE),
        starts,
        mixer.D,
        mixer.dt_bias,
        dt_min=limits[0],
        dt_max=limits[1],
    )
    y = baton.ops.gated_norm(y.reshape(tokens, INNER), z, mixer.norm.weight, 1e-5, norm_group, True)
    return mixer.out_proj(y)


@pytest.mark.parametrize("family", [mamba2, bamba, nemotron_h])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_mixer_output(family, length):
    mixer, norm_group, limits = family()
    spread(mixer)
    rows = 3
    hidden = torch.randn(rows, length, HIDDEN)
    starts = torch.arange(rows + 1, dtype=torch.int32) * length
    with torch.no_grad():
        expected = mixer(hidden)
        packed = baton_mixer(mixer, hidden.flatten(0, 1), starts, norm_group, limits)
    assert expected.std() > 0.1
    torch.testing.assert_close(packed.view_as(expected), expected, **TOLERANCE)


@pytest.mark.parametrize("family", [mamba2, bamba, nemotron_h])
def test_mixer_gradients(family):
    mixer, norm_group, limits = family()
    spread(mixer)
    length = CHUNK + 3
    hidden = torch.randn(2, length, HIDDEN)
    starts = torch.arange(3, dtype=torch.int32) * length
    weight = torch.randn(2, length, HIDDEN) / math.sqrt(2 * length)
    parameters = dict(mixer.named_parameters())
    judge = torch.autograd.grad((mixer(hidden) * weight).sum(), parameters.values())
    packed = baton_mixer(mixer, hidden.flatten(0, 1), starts, norm_group, limits)
    ours = torch.autograd.grad((packed.view_as(weight) * weight).sum(), parameters.values())
    for name, expected, gradient in zip(parameters, judge, ours):
        scale = expected.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(gradient / scale, expected / scale, **TOLERANCE, msg=name)


@pytest.mark.parametrize("family", [mamba2, bamba, nemotron_h])
def test_packed_documents_equal_separate_calls(family):
    mixer, norm_group, limits = family()
    spread(mixer)
    lengths = [5, 0, 1, 2 * CHUNK + 3]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    hidden = torch.randn(sum(lengths), HIDDEN)
    with torch.no_grad():
        packed = baton_mixer(mixer, hidden, starts, norm_group, limits)
        for begin, end in zip(starts.tolist(), starts.tolist()[1:]):
            if begin < end:
                alone = mixer(hidden[None, begin:end])[0]
                torch.testing.assert_close(packed[begin:end], alone, **TOLERANCE)
