# SPDX-License-Identifier: Apache-2.0
"""The gated norms against the formula."""

import itertools

import baton
import plain
import pytest
import torch

# Rows of 48 channels; in half precision the result is rounded, and with a bias twice.
TOLERANCES = {
    torch.float64: dict(rtol=1e-9, atol=1e-9),
    torch.float32: dict(rtol=1e-5, atol=2e-5),
    torch.float16: dict(rtol=2e-3, atol=4e-3),
    torch.bfloat16: dict(rtol=2e-2, atol=4e-2),
}
CHANNELS = 48


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    "bias, gate, group, before",
    [
        case
        for case in itertools.product((False, True), (False, True), (None, 16), (True, False))
        if case[1] or case[3]
    ],
)
def test_norm(device, dtype, centred, bias, gate, group, before):
    def random(*shape, kind=dtype):
        return torch.randn(*shape, dtype=torch.float64).to(kind).to(device).requires_grad_()

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = [
        random(3, 5, CHANNELS),
        random(CHANNELS, kind=wide),
        random(CHANNELS, kind=wide) if bias else None,
        random(3, 5, CHANNELS) if gate else None,
    ]
    judged = [
        None if t is None else t.detach().cpu().double().requires_grad_() for t in inputs
    ]
    out = baton.layernorm_fn(*inputs, 1e-5, group, before, is_rms_norm=not centred)
    judge = plain.norm(*judged, 1e-5, group, before, centred)
    assert out.dtype == dtype
    torch.testing.assert_close(out.detach().cpu().double(), judge.detach(), **TOLERANCES[dtype])
    given = torch.randn(judge.shape, dtype=torch.float64).to(dtype)
    present = [i for i, t in enumerate(inputs) if t is not None]
    ours = torch.autograd.grad(out, [inputs[i] for i in present], given.to(device))
    judges = torch.autograd.grad(judge, [judged[i] for i in present], given.double())
    for i, gradient, expected in zip(present, ours, judges):
        scale = expected.abs().max().item()
        assert gradient.dtype == inputs[i].dtype
        torch.testing.assert_close(
            gradient.cpu().double() / scale, expected / scale, **TOLERANCES[dtype]
        )


@pytest.mark.parametrize("kind", [baton.RMSNormGated, baton.LayerNormGated])
def test_modules(device, kind):
    norm = kind(CHANNELS, eps=1e-4, group_size=16, norm_before_gate=False, device=device)
    rms = kind is baton.RMSNormGated
    assert list(dict(norm.named_parameters())) == (["weight"] if rms else ["weight", "bias"])
    assert bool((norm.weight == 1).all()) and (rms or not norm.bias.any())
    x, z = torch.randn(2, 4, CHANNELS, device=device), torch.randn(2, 4, CHANNELS, device=device)
    weight = torch.ones(CHANNELS, dtype=torch.float64)
    judge = plain.norm(
        x.cpu().double(), weight, z=z.cpu().double(), eps=1e-4, group_size=16,
        norm_before_gate=False, centred=not rms,
    )  # fmt: skip
    torch.testing.assert_close(norm(x, z).detach().cpu().double(), judge, rtol=1e-5, atol=2e-5)
    assert kind(8, dtype=torch.bfloat16).weight.dtype == torch.bfloat16


def test_bad_arguments():
    x, weight = torch.zeros(2, CHANNELS), torch.ones(CHANNELS)
    cases = {
        "weight must have shape [channels] = [48], got [3]": dict(weight=torch.ones(3)),
        "bias must have shape [channels] = [48], got [3]": dict(bias=torch.ones(3)),
        "z must have shape [..., channels] = [2, 48], got [2, 1]": dict(z=torch.ones(2, 1)),
        "the channels must be a multiple of group_size, got 48 and 7": dict(group_size=7),
        "x must be floating, got torch.int64": dict(x=x.long()),
    }
    for message, options in cases.items():
        with pytest.raises(ValueError) as caught:
            baton.rmsnorm_fn(**{"x": x, "weight": weight, "bias": None, **options})
        assert str(caught.value) == "rmsnorm_fn: " + message
