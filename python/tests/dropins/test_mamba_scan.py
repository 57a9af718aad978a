# SPDX-License-Identifier: Apache-2.0
"""mamba_chunk_scan_combined and mamba_split_conv1d_scan_combined against the plain recurrence."""

import math

import baton
import plain
import pytest
import torch
import torch.nn.functional as F

HEADS, HEAD_DIM, GROUPS, STATE, CHUNK = 4, 8, 2, 16, 16
INF = math.inf
# Two orders of summation over some tens of tokens; in bf16 the output itself is rounded to 8 bits,
# and what went in was rounded before both computed.
TOLERANCES = {
    torch.float64: dict(rtol=1e-9, atol=1e-9),
    torch.float32: dict(rtol=2e-4, atol=2e-4),
    torch.float16: dict(rtol=4e-3, atol=8e-3),
    torch.bfloat16: dict(rtol=3e-2, atol=6e-2),
}
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


def scan_inputs(batch, seqlen, dtype, device):
    def random(*shape, scale=1.0, kind=dtype):
        value = (scale * torch.randn(*shape, dtype=torch.float64)).to(kind)
        return value.to(device).requires_grad_()

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return dict(
        x=random(batch, seqlen, HEADS, HEAD_DIM),
        dt=random(batch, seqlen, HEADS),
        A=(-torch.rand(HEADS, dtype=wide) - 0.2).to(device).requires_grad_(),
        B=random(batch, seqlen, GROUPS, STATE, scale=0.5),
        C=random(batch, seqlen, GROUPS, STATE, scale=0.5),
        D=random(HEADS, kind=wide),
        z=random(batch, seqlen, HEADS, HEAD_DIM),
        dt_bias=random(HEADS, kind=wide),
        initial_states=random(batch, HEADS, HEAD_DIM, STATE, kind=wide),
    )


def random_documents(batch, seqlen, device):
    """Documents of random lengths, numbered from 0 in each row."""
    begins = torch.rand(batch, seqlen) < 0.15
    begins[:, :1] = False
    return begins.cumsum(1).int().to(device)


def as_double(inputs):
    return {
        name: value.detach().cpu().double().requires_grad_(value.requires_grad)
        if torch.is_tensor(value) and value.is_floating_point()
        else (value.cpu() if torch.is_tensor(value) else value)
        for name, value in inputs.items()
    }


def assert_close(ours, judge, dtype, name=""):
    scale = max(1.0, judge.detach().abs().max().item()) if judge.numel() else 1.0
    ours, judge = ours.detach().cpu().double() / scale, judge.detach() / scale
    torch.testing.assert_close(ours, judge, **TOLERANCES[dtype], msg=lambda text: f"{name}: {text}")


def compare(inputs, options, dtype, seqlen):
    """Outputs, final states and all gradients against the recurrence in fp64."""
    judged = as_double(inputs)
    out, final = baton.mamba_chunk_scan_combined(
        **inputs, chunk_size=CHUNK, return_final_states=True, **options
    )
    judge_options = {key: v.cpu() if torch.is_tensor(v) else v for key, v in options.items()}
    judge_out, judge_final, _ = plain.scan(**judged, **judge_options)
    assert out.dtype == dtype and out.shape == inputs["x"].shape
    assert final.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(out, judge_out, dtype, "out")
    assert_close(final, judge_final, dtype, "final states")
    weight = torch.randn(judge_out.shape, dtype=torch.float64) / math.sqrt(max(seqlen, 1))
    final_weight = torch.randn(judge_final.shape, dtype=torch.float64)

    def loss(out, final):
        terms = (out * weight.to(out)).sum(), (final * final_weight.to(final)).sum()
        return terms[0].float().to(final) + terms[1]

    names = [name for name, value in inputs.items() if value is not None]
    ours = torch.autograd.grad(loss(out, final), [inputs[name] for name in names])
    judges = torch.autograd.grad(
        loss(judge_out, judge_final), [judged[name] for name in names], allow_unused=True
    )
    for name, gradient, judge in zip(names, ours, judges):
        assert gradient.dtype == inputs[name].dtype, name
        judge = torch.zeros_like(judged[name]) if judge is None else judge
        scale = max(judge.abs().max().item(), 1e-3)
        assert_close(gradient / scale, judge / scale, dtype, f"gradient of {name}")


@pytest.mark.parametrize("seqlen", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scan_with_all_options(device, dtype, seqlen):
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("CUDA's scan takes bf16 and fp32")
    compare(
        scan_inputs(2, seqlen, dtype, device),
        dict(dt_softplus=True, dt_limit=(0.05, 1.5)),
        dtype,
        seqlen,
    )


@pytest.mark.parametrize("seqlen", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scan_over_documents(device, dtype, seqlen):
    inputs = scan_inputs(3, seqlen, dtype, device)
    seq_idx = random_documents(3, seqlen, device)
    seq_idx[2] += 5  # a row that does not begin with document 0 takes no state
    compare(inputs, dict(dt_softplus=True, seq_idx=seq_idx), dtype, seqlen)


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "initial_states"])
@pytest.mark.parametrize("with_documents", [False, True])
def test_scan_without_one_input(device, absent, with_documents):
    inputs = scan_inputs(2, 21, torch.float32, device)
    inputs[absent] = None
    options = dict(dt_softplus=True)
    if with_documents:
        options["seq_idx"] = random_documents(2, 21, device)
    compare(inputs, options, torch.float32, 21)


def test_scan_without_softplus_holds_dt_above_zero(device):
    compare(scan_inputs(1, 20, torch.float32, device), {}, torch.float32, 20)


def test_scan_with_d_per_channel_and_strided_inputs(device):
    inputs = scan_inputs(2, 19, torch.float32, device)
    inputs["D"] = torch.randn(HEADS, HEAD_DIM, device=device, requires_grad=True)
    sizes = [HEADS * HEAD_DIM, GROUPS * STATE, GROUPS * STATE, HEADS]
    wide = torch.randn(2, 19, sum(sizes), device=device)
    x, B, C, dt = wide.split(sizes, -1)
    inputs.update(
        x=x.unflatten(2, (HEADS, HEAD_DIM)).detach().requires_grad_(),
        B=B.unflatten(2, (GROUPS, STATE)).detach().requires_grad_(),
        C=C.unflatten(2, (GROUPS, STATE)).detach().requires_grad_(),
        dt=dt.detach().requires_grad_(),
    )
    assert not inputs["x"].is_contiguous()
    compare(inputs, dict(dt_softplus=True), torch.float32, 19)


def test_empty_rows_return_their_states(device):
    inputs = scan_inputs(2, 0, torch.float32, device)
    seq_idx = torch.zeros(2, 0, dtype=torch.int32, device=device)
    for options in ({}, dict(seq_idx=seq_idx)):
        out, final = baton.mamba_chunk_scan_combined(
            **inputs, chunk_size=CHUNK, return_final_states=True, **options
        )
        assert out.shape == (2, 0, HEADS, HEAD_DIM)
        torch.testing.assert_close(final, inputs["initial_states"])


def test_varlen_states(device):
    lengths = [5, 1, 0, 17, 30]
    inputs = scan_inputs(1, sum(lengths) + 4, torch.float32, device)
    numbers = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))
    seq_idx = torch.cat([numbers, torch.full((4,), -1)])[None].int().to(device)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    out, final, states = baton.mamba_chunk_scan_combined(
        **inputs, chunk_size=CHUNK, seq_idx=seq_idx, cu_seqlens=cu_seqlens, dt_softplus=True,
        return_final_states=True, return_varlen_states=True, state_dtype=torch.float32,
    )  # fmt: skip
    judge, judge_final, behind = plain.scan(
        **as_double(inputs), seq_idx=seq_idx.cpu(), dt_softplus=True
    )
    assert_close(out, judge, torch.float32)
    assert_close(final, judge_final, torch.float32)
    zero = torch.zeros_like(behind[0])
    assert_close(
        states, torch.stack([behind[0], behind[1], zero, behind[2], behind[3]]), torch.float32
    )
    two = baton.mamba_chunk_scan_combined(
        **inputs, chunk_size=CHUNK, seq_idx=seq_idx, cu_seqlens=cu_seqlens, dt_softplus=True,
        return_varlen_states=True,
    )  # fmt: skip
    assert len(two) == 2 and two[1].dtype == inputs["C"].dtype and not two[1].requires_grad


def test_a_split_with_the_state_carried_equals_the_whole(device):
    inputs = scan_inputs(2, 50, torch.float32, device)
    options = dict(chunk_size=CHUNK, dt_softplus=True, return_final_states=True)
    whole, final = baton.mamba_chunk_scan_combined(**inputs, **options)
    state, pieces = inputs["initial_states"], []
    for piece in (slice(0, 13), slice(13, 13), slice(13, 50)):
        part = dict(inputs, initial_states=state)
        part.update({name: inputs[name][:, piece] for name in ("x", "dt", "B", "C", "z")})
        out, state = baton.mamba_chunk_scan_combined(**part, **options)
        pieces.append(out)
    assert_close(torch.cat(pieces, 1), whole.double().cpu(), torch.float32)
    assert_close(state, final.double().cpu(), torch.float32)


def split_inputs(batch, seqlen, device, mlp=0, out_dim=12):
    dim, keys = HEADS * HEAD_DIM, 2 * GROUPS * STATE

    def random(*shape, scale=1.0):
        return (scale * torch.randn(*shape, device=device)).requires_grad_()

    return dict(
        zxbcdt=random(batch, seqlen, 2 * mlp + 2 * dim + keys + HEADS),
        conv1d_weight=random(dim + keys, 4, scale=0.5),
        conv1d_bias=random(dim + keys),
        dt_bias=random(HEADS),
        A=(-torch.rand(HEADS, device=device) - 0.2).requires_grad_(),
        D=random(HEADS),
        initial_states=random(batch, HEADS, HEAD_DIM, STATE),
        rmsnorm_weight=random(dim),
        outproj_weight=random(out_dim, mlp + dim, scale=0.2),
        outproj_bias=random(out_dim),
    )


def plain_split(inputs, mlp, seq_idx=None, silu=True, eps=1e-5, before=False, limit=(0.0, INF)):
    dim, keys = HEADS * HEAD_DIM, GROUPS * STATE
    batch, seqlen, _ = inputs["zxbcdt"].shape
    up, gate, z, xbc, dt = inputs["zxbcdt"].split([mlp, mlp, dim, dim + 2 * keys, HEADS], -1)
    xbc, _ = plain.convolution(
        xbc.transpose(1, 2), inputs["conv1d_weight"], inputs["conv1d_bias"], seq_idx, None, silu
    )
    x, B, C = xbc.transpose(1, 2).split([dim, keys, keys], -1)
    heads = (batch, seqlen, HEADS, HEAD_DIM)
    normed = inputs["rmsnorm_weight"] is not None
    y, final, _ = plain.scan(
        x.reshape(heads),
        dt,
        inputs["A"],
        B.reshape(batch, seqlen, GROUPS, STATE),
        C.reshape(batch, seqlen, GROUPS, STATE),
        inputs["D"],
        None if normed else z.reshape(heads),
        inputs["dt_bias"],
        inputs["initial_states"],
        seq_idx,
        True,
        limit,
    )
    y = y.reshape(batch, seqlen, dim)
    if normed:
        y = plain.norm(
            y, inputs["rmsnorm_weight"], z=z, eps=eps, group_size=dim // GROUPS,
            norm_before_gate=before,
        )  # fmt: skip
    y = torch.cat([F.silu(up) * gate, y], -1)
    if inputs["outproj_weight"] is not None:
        y = F.linear(y, inputs["outproj_weight"], inputs["outproj_bias"])
    return y, final


CASES = {
    "as in a mixer": dict(),
    "norm before gate": dict(before=True),
    "with documents": dict(documents=True),
    "an MLP beside it": dict(mlp=6),
    "no norm": dict(absent=["rmsnorm_weight"]),
    "no projection": dict(absent=["outproj_weight", "outproj_bias"], mlp=6),
    "no biases": dict(absent=["conv1d_bias", "outproj_bias"]),
    "no activation": dict(activation=None),
    "limits of dt": dict(limit=(0.1, 0.9)),
    "D per channel": dict(wide_D=True),
}


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_split(device, case, states):
    case = CASES[case]
    mlp = case.get("mlp", 0)
    inputs = split_inputs(2, 23, device, mlp)
    for name in case.get("absent", []) + ([] if states else ["initial_states"]):
        inputs[name] = None
    if case.get("wide_D"):
        inputs["D"] = torch.randn(HEADS, HEAD_DIM, device=device, requires_grad=True)
    seq_idx = random_documents(2, 23, device) if case.get("documents") else None
    before, limit = case.get("before", False), case.get("limit", (0.0, INF))
    activation = case.get("activation", "silu")
    out = baton.mamba_split_conv1d_scan_combined(
        **inputs, chunk_size=CHUNK, seq_idx=seq_idx, dt_limit=limit,
        return_final_states=states, activation=activation, rmsnorm_eps=1e-5, ngroups=GROUPS,
        norm_before_gate=before, headdim=None if case.get("wide_D") else HEAD_DIM,
    )  # fmt: skip
    out, final = out if states else (out, None)
    judged = as_double(inputs)
    documents = None if seq_idx is None else seq_idx.cpu()
    judge, judge_final = plain_split(
        judged, mlp, documents, activation is not None, 1e-5, before, limit
    )
    assert_close(out, judge, torch.float32, "out")
    if states:
        assert_close(final, judge_final, torch.float32, "final states")
    weight = torch.randn(judge.shape, dtype=torch.float64)
    names = [name for name, value in inputs.items() if value is not None]
    ours = torch.autograd.grad((out * weight.to(out)).sum(), [inputs[name] for name in names])
    judges = torch.autograd.grad((judge * weight).sum(), [judged[name] for name in names])
    for name, gradient, expected in zip(names, ours, judges):
        scale = expected.abs().max().item()
        assert_close(gradient / scale, expected / scale, torch.float32, f"gradient of {name}")


BAD = {
    "dt must have shape [batch, seqlen, nheads] = [2, 8, 4], got [2, 8, 3]": dict(dt=(2, 8, 3)),
    "A must have shape [nheads] = [4], got [5]": dict(A=(5,)),
    "x must have dims [batch, seqlen, nheads, headdim], got shape [8, 4]": dict(x=(8, 4)),
    "nheads must be a multiple of ngroups, got 4 and 3": dict(B=(2, 8, 3, 16), C=(2, 8, 3, 16)),
    "C must have shape [batch, seqlen, ngroups, dstate] = [2, 8, 2, 16], got [2, 8, 2, 8]": dict(
        C=(2, 8, 2, 8)
    ),
    "D must have shape [nheads, headdim] = [4, 8], got [4, 4]": dict(D=(4, 4)),
    "z must have shape [batch, seqlen, nheads, headdim] = [2, 8, 4, 8], got [2, 8, 32]": dict(
        z=(2, 8, 32)
    ),
    "initial_states must have shape [batch, nheads, headdim, dstate] = [2, 4, 8, 16], got"
    " [1, 4, 8, 16]": dict(initial_states=(1, 4, 8, 16)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_shapes(message):
    inputs = scan_inputs(2, 8, torch.float32, "cpu")
    inputs.update({name: torch.zeros(shape) for name, shape in BAD[message].items()})
    with pytest.raises(ValueError) as caught:
        baton.mamba_chunk_scan_combined(**inputs, chunk_size=CHUNK)
    assert str(caught.value) == "mamba_chunk_scan_combined: " + message


def test_bad_options():
    inputs = scan_inputs(2, 8, torch.float32, "cpu")
    cu_seqlens = torch.tensor([0, 8])
    documents = torch.zeros(2, 8, dtype=torch.int32)
    cases = {
        "chunk_size must be positive, got 0": dict(chunk_size=0),
        "dt_limit must be (lowest, highest), got (1.0, 0.0)": dict(dt_limit=(1.0, 0.0)),
        "state_dtype must be a floating dtype, got torch.int32": dict(state_dtype=torch.int32),
        "return_varlen_states needs cu_seqlens": dict(return_varlen_states=True),
        "return_varlen_states needs seq_idx, without which the sequences of cu_seqlens would run"
        " into each other": dict(return_varlen_states=True, cu_seqlens=cu_seqlens),
        "return_varlen_states needs a batch of 1, got 2": dict(
            return_varlen_states=True, cu_seqlens=cu_seqlens, seq_idx=documents
        ),
        "seq_idx must be int32 or int64, got torch.float32": dict(seq_idx=documents.float()),
    }
    for message, options in cases.items():
        with pytest.raises(ValueError) as caught:
            baton.mamba_chunk_scan_combined(**{**inputs, "chunk_size": CHUNK, **options})
        assert str(caught.value) == "mamba_chunk_scan_combined: " + message
    one = {name: v if v.shape[0] != 2 else v[:1] for name, v in inputs.items()}
    with pytest.raises(ValueError, match="sequences of cu_seqlens must be documents of seq_idx"):
        baton.mamba_chunk_scan_combined(
            **one, chunk_size=CHUNK, seq_idx=documents[:1], cu_seqlens=torch.tensor([0, 3, 8]),
            return_varlen_states=True,
        )  # fmt: skip


def test_bad_split():
    inputs = split_inputs(2, 8, "cpu")
    cases = {
        "headdim must be given with D of one dim": dict(),
        "zxbcdt must have 2 mlp + 2 dim + 2 ngroups dstate + nheads channels, got 131 for dim 32,"
        " 2 ngroups dstate 64 and nheads 4": dict(
            zxbcdt=torch.zeros(2, 8, 131), headdim=HEAD_DIM, ngroups=GROUPS
        ),
        "outproj_bias needs outproj_weight": dict(
            outproj_weight=None, headdim=HEAD_DIM, ngroups=GROUPS
        ),
        "nheads must be a multiple of ngroups, got 4 and 3": dict(headdim=HEAD_DIM, ngroups=3),
    }
    for message, options in cases.items():
        with pytest.raises(ValueError) as caught:
            baton.mamba_split_conv1d_scan_combined(**{**inputs, "chunk_size": CHUNK, **options})
        assert str(caught.value) == "mamba_split_conv1d_scan_combined: " + message
    with pytest.raises(NotImplementedError, match="activation must be None, 'silu' or 'swish'"):
        baton.mamba_split_conv1d_scan_combined(
            **inputs, chunk_size=CHUNK, headdim=HEAD_DIM, ngroups=GROUPS, activation="gelu"
        )
