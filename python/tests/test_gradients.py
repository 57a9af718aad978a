# SPDX-License-Identifier: Apache-2.0
"""Gradients of whole operators through Python's autograd, against finite differences in fp64."""

import baton
import pytest
import torch
from torch.autograd import gradcheck

STARTS = torch.tensor([0, 4, 4, 5, 11], dtype=torch.int32)
TOKENS = 11
HEADS, HEAD_DIM, GROUPS, STATE = 4, 3, 2, 5


def values(*shape, scale=1.0, offset=0.0):
    return (offset + scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def scan_inputs():
    return dict(
        x=values(TOKENS, HEADS, HEAD_DIM),
        dt=values(TOKENS, HEADS),
        a=(-torch.rand(HEADS, dtype=torch.float64) - 0.2).requires_grad_(),
        b=values(TOKENS, GROUPS, STATE),
        c=values(TOKENS, GROUPS, STATE),
        d=values(HEADS),
        bias=values(HEADS),
        states=values(3, HEADS, HEAD_DIM, STATE),
    )


def test_ssd_with_states_by_slot():
    slots = torch.tensor([2, 0, -1, 1], dtype=torch.int32)

    def scan(x, dt, a, b, c, d, bias, states):
        return baton.ops.ssd(x, dt, a, b, c, STARTS, d, bias, states, slots)

    gradcheck(scan, tuple(scan_inputs().values()))


def test_ssd_with_limits_and_d_per_channel():
    inputs = scan_inputs()
    channel = values(HEADS, HEAD_DIM)

    def scan(x, dt, a, b, c, d):
        return baton.ops.ssd(x, dt, a, b, c, STARTS, d, None, None, None, True, 0.3, 1.5)

    gradcheck(scan, (*list(inputs.values())[:5], channel))


@pytest.mark.parametrize("silu", [False, True])
def test_causal_conv1d(silu):
    slots = torch.tensor([1, 0, -1, 2], dtype=torch.int32)

    def convolve(x, weight, bias, states):
        return baton.ops.causal_conv1d(x, weight, bias, STARTS, states, slots, silu)

    gradcheck(convolve, (values(TOKENS, 6), values(6, 4), values(6), values(3, 6, 3)))


def test_rms_norm():
    gradcheck(
        lambda x, weight: baton.ops.rms_norm(x, weight, 1e-5), (values(TOKENS, 6), values(6))
    )


@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
def test_gated_norm(gate_first, with_norm):
    inputs = [values(TOKENS, 6), values(TOKENS, 6)]
    if with_norm:
        inputs.append(values(6))

    def norm(y, z, weight=None):
        return baton.ops.gated_norm(y, z, weight, 1e-5, 3, gate_first)

    gradcheck(norm, tuple(inputs))


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary(interleaved):
    positions = torch.arange(TOKENS) + 3
    frequencies = torch.tensor([1.0, 0.0625])
    gradcheck(
        lambda x: baton.ops.rotary(x, positions, frequencies, 1.1, interleaved),
        (values(TOKENS, HEADS, 6),),
    )


def test_linear():
    gradcheck(baton.ops.linear, (values(TOKENS, 6), values(5, 6), values(5)))


def test_activations():
    gradcheck(baton.ops.squared_relu, (values(TOKENS, 6),))
    gradcheck(baton.ops.swiglu, (values(TOKENS, 6),))


def test_dropout():
    gradcheck(lambda x: baton.ops.dropout(x, 77, 3, 0.4), (values(TOKENS, 6),))


def test_attention():
    starts_k = torch.tensor([0, 6, 6, 9, 15], dtype=torch.int32)

    def attend(q, k, v):
        return baton.ops.attention(q, k, v, STARTS, starts_k, 0.5)[0]

    gradcheck(attend, (values(TOKENS, 4, 3), values(15, 2, 3), values(15, 2, 3)))


def test_cross_entropy():
    labels = torch.randint(0, 13, (TOKENS,))
    labels[3] = -100
    mask = torch.rand(TOKENS)

    def loss(hidden, weight):
        return baton.ops.cross_entropy(hidden, weight, labels, mask, 0.7, 4)[0]

    gradcheck(loss, (values(TOKENS, 6), values(13, 6)))


def test_sum_squares():
    gradcheck(baton.ops.sum_squares, (values(3, 50),))
