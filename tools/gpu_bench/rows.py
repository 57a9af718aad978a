# SPDX-License-Identifier: Apache-2.0
"""Operators that read and write rows: convolution, norms, activations, rotary positions."""

import functools

import torch
from torch.nn import functional

from . import peers
from .case import Case, even_starts, leaves, randn

ops = torch.ops.baton
EPS = 1e-5
WIDTH = 4


def gradients(outputs, i, names, upstream):
    """A backward pass of a peer, whose forward runs ahead of the clock."""
    wanted = leaves(i, names)
    y = outputs(*wanted)
    return lambda: torch.autograd.grad(y, wanted, i[upstream], retain_graph=True)


def conv_view(i, channels):
    """x, B and C where in_proj leaves them: behind z, before dt."""
    return i["projected"][:, -channels - 64 : -64]


@functools.cache
def conv_cases(batch, length, channels, small=None):
    def make(device):
        tokens = batch * length
        return {
            "projected": randn(device, tokens, 2 * channels + 64),
            "weight": randn(device, channels, WIDTH, scale=0.5),
            "bias": randn(device, channels, scale=0.5),
            "dy": randn(device, tokens, channels),
            "starts": even_starts(device, batch, length),
        }

    def forward(i):
        x = conv_view(i, channels)
        return lambda: ops.causal_conv1d(x, i["weight"], i["bias"], i["starts"])[:1]

    def backward(i):
        x = conv_view(i, channels)
        return lambda: ops.causal_conv1d_backward(
            i["dy"], None, x, i["weight"], i["bias"], i["starts"], None, None, True)[:3]

    def peer(x, weight, bias):
        from causal_conv1d import causal_conv1d_fn
        x = x.unflatten(0, (batch, length)).transpose(1, 2)
        return causal_conv1d_fn(x, weight, bias, activation="silu").transpose(1, 2).flatten(0, 1)

    def peer_forward(i):
        return lambda: (peer(conv_view(i, channels), i["weight"], i["bias"]),)

    def peer_backward(i):
        return gradients(peer, {**i, "x": conv_view(i, channels)}, ("x", "weight", "bias"), "dy")

    has = peers.has("causal_conv1d")
    smalls = conv_cases(*small) if small else (None, None)
    passed = 2 * batch * length * channels
    name = f"{batch} x {length} tokens, {channels} channels"
    return (
        Case(f"causal_conv1d, {name}", ("causal_conv1d",), make, forward,
             {"causal_conv1d": peer_forward} if has else {}, 2 * passed, small=smalls[0]),
        Case(f"causal_conv1d backward, {name}", ("causal_conv1d_backward",), make, backward,
             {"causal_conv1d": peer_backward} if has else {}, 3 * passed, small=smalls[1]),
    )


@functools.cache
def conv_step_case(batch, channels, small=None):
    def make(device):
        return {
            "x": randn(device, batch, channels),
            "weight": randn(device, channels, WIDTH, scale=0.5),
            "bias": randn(device, channels, scale=0.5),
            "states": randn(device, batch, channels, WIDTH - 1),
            "slots": torch.arange(batch, dtype=torch.int32, device=device),
        }

    def ours(i):
        def call():
            y = ops.causal_conv1d_step_(i["x"], i["weight"], i["bias"], i["states"], i["slots"])
            return y, i["states"]
        return call

    def peer(i):
        from causal_conv1d import causal_conv1d_update

        def call():
            y = causal_conv1d_update(i["x"], i["states"], i["weight"], i["bias"], "silu")
            return y, i["states"]
        return call

    return Case(f"causal_conv1d_step_, batch {batch}, {channels} channels",
                ("causal_conv1d_step_",), make, ours,
                {"causal_conv1d": peer} if peers.has("causal_conv1d") else {},
                2 * batch * channels * (2 + 2 * (WIDTH - 1)), graph=True,
                small=conv_step_case(*small) if small else None)


@functools.cache
def rms_norm_cases(rows, channels, dtype, small=None):
    def make(device):
        return {"x": randn(device, rows, channels, dtype=dtype),
                "weight": randn(device, channels, dtype=dtype),
                "dy": randn(device, rows, channels, dtype=dtype)}

    def peer(x, weight):
        return functional.rms_norm(x, (channels,), weight, EPS)

    smalls = rms_norm_cases(*small, dtype) if small else (None, None)
    name = f"{rows} x {channels}, {str(dtype)[6:]}"
    passed = rows * channels * dtype.itemsize
    return (
        Case(f"rms_norm, {name}", ("rms_norm",), make,
             lambda i: lambda: (ops.rms_norm(i["x"], i["weight"], EPS),),
             {"torch": lambda i: lambda: (peer(i["x"], i["weight"]),)}, 2 * passed,
             small=smalls[0]),
        Case(f"rms_norm backward, {name}", ("rms_norm_backward",), make,
             lambda i: lambda: ops.rms_norm_backward(i["dy"], i["x"], i["weight"], EPS),
             {"torch": lambda i: gradients(peer, i, ("x", "weight"), "dy")}, 3 * passed,
             small=smalls[1]),
    )


@functools.cache
def gated_norm_cases(rows, channels, groups, small=None):
    group = channels // groups

    def make(device):
        return {"y": randn(device, rows, channels), "z": randn(device, rows, channels),
                "weight": randn(device, channels), "dout": randn(device, rows, channels)}

    def peer(y, z, weight):
        return peers.module("layernorm_gated").rmsnorm_fn(
            y, weight, None, z=z, eps=EPS, group_size=group, norm_before_gate=False)

    has = peers.has("mamba_ssm")
    smalls = gated_norm_cases(*small) if small else (None, None)
    name = f"{rows} x {channels}, groups of {group}"
    passed = 2 * rows * channels
    return (
        Case(f"gated_norm, {name}", ("gated_norm",), make,
             lambda i: lambda: (ops.gated_norm(i["y"], i["z"], i["weight"], EPS, group, True),),
             {"mamba_ssm": lambda i: lambda: (peer(i["y"], i["z"], i["weight"]),)} if has else {},
             3 * passed, small=smalls[0]),
        Case(f"gated_norm backward, {name}", ("gated_norm_backward",), make,
             lambda i: lambda: ops.gated_norm_backward(
                 i["dout"], i["y"], i["z"], i["weight"], EPS, group, True),
             {"mamba_ssm": lambda i: gradients(peer, i, ("y", "z", "weight"), "dout")}
             if has else {}, 5 * passed, small=smalls[1]),
    )


def activation_cases(name, widening, eager, tokens, hidden, small=None):
    """`widening` inputs for an output; `eager` is the peer and its name."""
    forward, backward = getattr(ops, name), getattr(ops, name + "_backward")
    label, peer = eager

    def make(device):
        return {"x": randn(device, tokens, widening * hidden), "dy": randn(device, tokens, hidden)}

    smalls = activation_cases(name, widening, eager, *small) if small else (None, None)
    shape = f"{tokens} x {hidden}"
    passed = 2 * tokens * hidden
    return (
        Case(f"{name}, {shape}", (name,), make, lambda i: lambda: (forward(i["x"]),),
             {label: lambda i: lambda: (peer(i["x"]),)}, (widening + 1) * passed, small=smalls[0]),
        Case(f"{name} backward, {shape}", (name + "_backward",), make,
             lambda i: lambda: (backward(i["dy"], i["x"]),),
             {label: lambda i: gradients(peer, i, ("x",), "dy")}, (2 * widening + 1) * passed,
             small=smalls[1]),
    )


def swiglu_peer():
    if peers.has("mamba_ssm"):
        return "mamba_ssm", lambda x: peers.module("k_activations").swiglu(x)

    def eager(x):
        gate, up = x.chunk(2, -1)
        return functional.silu(gate) * up
    return "torch", eager


@functools.cache
def rotary_case(tokens, heads, channels, small=None):
    def make(device):
        half = torch.arange(channels // 2, dtype=torch.float32, device=device)
        return {"x": randn(device, tokens, heads, channels),
                "positions": torch.arange(tokens, device=device),
                "frequencies": 10000.0 ** (-2 * half / channels)}

    def peer(i):
        angles = i["positions"].float()[:, None, None] * i["frequencies"]
        angles = torch.cat((angles, angles), -1)
        cos, sin = (f(angles).to(i["x"].dtype) for f in (torch.cos, torch.sin))

        def call():
            left, right = i["x"].chunk(2, -1)
            return (i["x"] * cos + torch.cat((-right, left), -1) * sin,)
        return call

    return Case(f"rotary, {tokens} x {heads} x {channels}", ("rotary",), make,
                lambda i: lambda: (ops.rotary(i["x"], i["positions"], i["frequencies"]),),
                {"as in transformers": peer}, 4 * tokens * heads * channels,
                small=rotary_case(*small) if small else None)


def cases(small):
    bf16, fp32 = torch.bfloat16, torch.float32
    small_conv = (2, 200, 128)
    for sizes in ((small_conv,) if small else ((1, 8192, 10240), (4, 4096, 6144))):
        yield from conv_cases(*sizes, small_conv)
    for batch in ((3,) if small else (1, 64, 256)):
        yield conv_step_case(batch, 128 if small else 6144, (3, 128))
    small_rows = (200, 512)
    for rows in ((small_rows,) if small else ((8192, 2048), (65536, 2048))):
        yield from rms_norm_cases(*rows, bf16, small_rows)
    yield from rms_norm_cases(*(small_rows if small else (8192, 2048)), fp32, small_rows)
    small_gated = (200, 512, 4)
    for sizes in ((small_gated,) if small else ((8192, 8192, 8), (16384, 4096, 8))):
        yield from gated_norm_cases(*sizes, small_gated)
    hidden = small_rows if small else (8192, 11264)
    relu = ("torch", lambda x: functional.relu(x).square())
    yield from activation_cases("squared_relu", 1, relu, *hidden, small_rows)
    yield from activation_cases("swiglu", 2, swiglu_peer(), *hidden, small_rows)
    yield rotary_case(*((200, 4, 64) if small else (8192, 16, 128)), (200, 4, 64))
