# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own checks of the operators on rows of channels, and rotary scalings by transformers."""

import os
import pathlib

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("BATON_OPS_LIBRARY", str(ROOT / "build/baton/libbaton_ops.so"))
torch.ops.load_library(LIBRARY)
ops = torch.ops.baton

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def starts(*lengths):
    return torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def normal(*sizes, dtype=torch.float32, grad=False):
    return torch.randn(*sizes, dtype=torch.float64).to(dtype).requires_grad_(grad)


def opcheck(op, arguments, **keywords):
    torch.library.opcheck(op.default, arguments, keywords)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(7, 6), (0, 6), (2, 3, 6)])
@pytest.mark.parametrize("grad", [False, True])
def test_rms_norm(dtype, sizes, grad):
    x = normal(*sizes, dtype=dtype, grad=grad)
    weight = normal(6, dtype=dtype, grad=grad)
    opcheck(ops.rms_norm, (x, weight, 1e-5))
    opcheck(ops.rms_norm_backward, (x.detach(), x.detach(), weight.detach(), 1e-5))


@pytest.mark.parametrize(
    "dtype, residual_dtype", [*zip(DTYPES, DTYPES), (torch.bfloat16, torch.float32)]
)
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("grad", [False, True])
def test_add_rms_norm(dtype, residual_dtype, rows, scale, grad):
    residual = normal(rows, 6, dtype=residual_dtype, grad=grad)
    update, weight = normal(rows, 6, dtype=dtype, grad=grad), normal(6, dtype=dtype, grad=grad)
    opcheck(ops.add_rms_norm, (residual, update, weight, 1e-5, scale))
    total, dnormed, weight = residual.detach(), update.detach(), weight.detach()
    for dsum in (None, torch.randn_like(total)):
        opcheck(ops.add_rms_norm_backward, (dsum, dnormed, total, weight, 1e-5, scale))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 5, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_mlp_steps(dtype, rows, bias):
    hidden, norm = normal(rows, 6, dtype=dtype), normal(6, dtype=dtype)
    for op, up in ((ops.squared_relu_mlp_step, 10), (ops.swiglu_mlp_step, 20)):
        up_bias = normal(up, dtype=dtype) if bias else None
        down_bias = normal(6, dtype=dtype) if bias else None
        weights = (normal(up, 6, dtype=dtype), up_bias, normal(6, 10, dtype=dtype), down_bias)
        opcheck(op, (hidden, norm, *weights, 1e-5, 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("rows", [0, 5])
def test_gated_norm(dtype, gate_first, with_weight, rows):
    y = normal(rows, 12, dtype=dtype, grad=True)
    z = normal(rows, 12, dtype=dtype, grad=True)
    weight = normal(12, dtype=dtype, grad=True) if with_weight else None
    opcheck(ops.gated_norm, (y, z, weight, 1e-5, 4, gate_first))
    flat = weight.detach() if with_weight else None
    opcheck(
        ops.gated_norm_backward,
        (y.detach(), y.detach(), z.detach(), flat, 1e-5, 4, gate_first),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(5, 0, 1), (0,), (), (40, 2)])
@pytest.mark.parametrize("states", ["none", "given", "slots"])
@pytest.mark.parametrize("grad", [False, True])
def test_causal_conv1d(dtype, lengths, states, grad):
    tokens, count = sum(lengths), len(lengths)
    x = normal(tokens, 3, dtype=dtype, grad=grad)
    weight = normal(3, 4, dtype=dtype, grad=grad)
    bias = normal(3, dtype=dtype, grad=grad)
    initial, slots = None, None
    if states == "given":
        initial = normal(count, 3, 3, dtype=dtype, grad=grad)
    if states == "slots":
        initial = normal(4, 3, 3, dtype=dtype, grad=grad)
        slots = int32(*[i - 1 for i in range(count)])
    opcheck(ops.causal_conv1d, (x, weight, bias, starts(*lengths), initial, slots, True))


@pytest.mark.parametrize("width", [1, 4])
def test_causal_conv1d_without_bias_and_silu(width):
    x, weight = normal(6, 3, grad=True), normal(3, width, grad=True)
    opcheck(ops.causal_conv1d, (x, weight, None, starts(4, 2), None, None, False))


def test_causal_conv1d_backward():
    x, weight, state = normal(6, 3), normal(3, 4), normal(2, 3, 3)
    arguments = (normal(6, 3), normal(2, 3, 3), x, weight, normal(3), starts(4, 2), state, None)
    opcheck(ops.causal_conv1d_backward, (*arguments, True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_conv1d_step(dtype):
    x, weight = normal(3, 5, dtype=dtype), normal(5, 4, dtype=dtype)
    states = normal(4, 5, 3, dtype=dtype)
    opcheck(ops.causal_conv1d_step_, (x, weight, None, states, int32(2, -1, 0), True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("tokens", [0, 5])
def test_rotary(dtype, interleaved, tokens):
    x = normal(tokens, 2, 10, dtype=dtype, grad=True)
    frequencies, _ = ops.rotary_frequencies(10, fraction=0.8)
    opcheck(ops.rotary, (x, torch.arange(tokens), frequencies, 1.1, interleaved))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(5, 6), (0, 6), (2, 3, 4)])
@pytest.mark.parametrize("op", [ops.squared_relu, ops.swiglu])
def test_activation(dtype, sizes, op):
    opcheck(op, (normal(*sizes, dtype=dtype, grad=True),))


def test_activation_backward():
    opcheck(ops.squared_relu_backward, (normal(3, 4), normal(3, 4)))
    opcheck(ops.swiglu_backward, (normal(3, 4), normal(3, 8)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 5])
def test_dropout(dtype, rows):
    opcheck(ops.dropout, (normal(rows, 6, dtype=dtype, grad=True), -3, 7, 0.3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_write_slots(dtype):
    opcheck(ops.write_slots_, (normal(4, 2, 3), int32(2, -1), normal(2, 2, 3, dtype=dtype)))


@pytest.mark.parametrize(
    "op, shapes",
    [
        (lambda x, w: ops.rms_norm(x, w, 1e-5), [(3, 4), (4,)]),
        (lambda x, u, w: ops.add_rms_norm(x, u, w, 1e-5, 1.0), [(3, 4), (3, 4), (4,)]),
        (lambda x, u, w: ops.add_rms_norm(x, u, w, 1e-5, 0.4), [(3, 4), (3, 4), (4,)]),
        (lambda y, z, w: ops.gated_norm(y, z, w, 1e-5, 2, True), [(3, 4), (3, 4), (4,)]),
        (lambda y, z, w: ops.gated_norm(y, z, w, 1e-5, 2, False), [(3, 4), (3, 4), (4,)]),
        (
            lambda x, w, b, s: ops.causal_conv1d(x, w, b, starts(3, 0, 2), s, None, True),
            [(5, 2), (2, 4), (2,), (3, 2, 3)],
        ),
        (lambda x: ops.rotary(x, torch.arange(3), torch.tensor([1.0, 0.1]), 1.2), [(3, 2, 6)]),
        (ops.swiglu, [(3, 8)]),
        (ops.squared_relu, [(3, 8)]),
        (lambda x: ops.dropout(x, 5, 2, 0.4), [(3, 8)]),
    ],
)
def test_gradients_by_finite_differences(op, shapes):
    torch.autograd.gradcheck(op, [normal(*s, dtype=torch.float64, grad=True) for s in shapes])


YARN = [
    {"factor": 8.0, "original_max_position_embeddings": 2048},
    {"factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2},
    {"factor": 4.0, "original_max_position_embeddings": 64, "truncate": False},
    {"factor": 16.0, "original_max_position_embeddings": 4096, "mscale": 0.7, "mscale_all_dim": 1.2},
    {"factor": 16.0, "original_max_position_embeddings": 4096, "attention_factor": 1.25},
]


def transformers_frequencies(kind, head_dim, fraction, parameters):
    """What transformers computes for a Llama of this head, and its attention factor."""
    llama = pytest.importorskip("transformers.models.llama.configuration_llama")
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    parameters = {"rope_type": kind, "rope_theta": 1e4, **parameters}
    if fraction != 1.0:
        parameters["partial_rotary_factor"] = fraction
    original = parameters.get("original_max_position_embeddings", 2048)
    config = llama.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=int(original * parameters["factor"]),
        rope_parameters=parameters,
    )
    return rope.ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))


@pytest.mark.parametrize("head_dim, fraction", [(64, 1.0), (128, 0.5)])
@pytest.mark.parametrize("parameters", YARN)
def test_yarn_is_that_of_transformers(head_dim, fraction, parameters):
    expected, expected_factor = transformers_frequencies("yarn", head_dim, fraction, parameters)
    found, factor = ops.rotary_frequencies(
        head_dim,
        fraction=fraction,
        scaling="yarn",
        factor=parameters["factor"],
        original_length=parameters["original_max_position_embeddings"],
        beta_fast=parameters.get("beta_fast", 32),
        beta_slow=parameters.get("beta_slow", 1),
        whole_pairs=parameters.get("truncate", True),
        mscale=parameters.get("mscale", 0.0),
        mscale_all_dim=parameters.get("mscale_all_dim", 0.0),
        attention_factor=parameters.get("attention_factor"),
    )
    # transformers computes in fp32 what we compute in fp64 and round once.
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    assert factor == pytest.approx(expected_factor, rel=1e-12)


def test_linear_scaling_is_that_of_transformers():
    expected, expected_factor = transformers_frequencies("linear", 64, 1.0, {"factor": 4.0})
    found, factor = ops.rotary_frequencies(64, scaling="linear", factor=4.0)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    assert factor == expected_factor


def test_rotary_is_that_of_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    x = normal(20, 3, 16)
    positions = torch.arange(5, 25)
    frequencies, factor = ops.rotary_frequencies(16)
    angles = positions[:, None].float() * frequencies
    angles = torch.cat([angles, angles], -1)
    expected, _ = llama.apply_rotary_pos_emb(x, x, angles.cos(), angles.sin(), unsqueeze_dim=1)
    found = ops.rotary(x, positions, frequencies, factor, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
