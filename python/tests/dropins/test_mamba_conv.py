# SPDX-License-Identifier: Apache-2.0
"""The drop-ins of causal-conv1d against the formula."""

import math

import baton
import plain
import pytest
import torch

# As for the scan; a convolution adds up to eight products.
TOLERANCES = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.float16: dict(rtol=2e-3, atol=4e-3),
    torch.bfloat16: dict(rtol=1e-2, atol=2e-2),
}
DIM = 10


def random(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(*shape, dtype=torch.float64).to(dtype).to(device).requires_grad_()


def double(tensor):
    if tensor is None:
        return None
    return tensor.detach().cpu().double().requires_grad_(tensor.requires_grad)


def assert_close(ours, judge, dtype, name=""):
    torch.testing.assert_close(
        ours.detach().cpu().double(), judge.detach(), **TOLERANCES[dtype],
        msg=lambda text: f"{name}: {text}",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("seqlen", [1, 3, 31, 32, 33, 70])
def test_convolution_with_states(device, dtype, width, seqlen):
    x = random(2, DIM, seqlen, dtype=dtype, device=device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight = random(DIM, width, dtype=wide, device=device)
    bias = random(DIM, dtype=wide, device=device)
    states = random(2, DIM, width - 1, dtype=dtype, device=device)
    silu = width % 2 == 0
    out, final = baton.causal_conv1d_fn(
        x, weight, bias, initial_states=states, return_final_states=True,
        activation="silu" if silu else None,
    )  # fmt: skip
    judged = [double(t) for t in (x, weight, bias, states)]
    judge, judge_final = plain.convolution(*judged[:3], None, judged[3], silu)
    assert out.dtype == dtype and final.dtype == dtype
    assert_close(out, judge, dtype, "out")
    torch.testing.assert_close(final.detach().cpu().double(), judge_final.detach())
    given = torch.randn(judge.shape, dtype=torch.float64).to(dtype)
    given_final = torch.randn(judge_final.shape, dtype=torch.float64).to(dtype)
    inputs = [x, weight, bias, states]
    ours = torch.autograd.grad([out, final], inputs, [given.to(device), given_final.to(device)])
    judges = torch.autograd.grad(
        [judge, judge_final], judged, [given.double(), given_final.double()]
    )
    for name, gradient, expected in zip(("x", "weight", "bias", "states"), ours, judges):
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        assert_close(gradient / scale, expected / scale, dtype, f"gradient of {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_documents_and_padding(device, dtype, with_bias):
    x = random(3, DIM, 40, dtype=dtype, device=device)
    weight = random(DIM, 4, device=device)
    bias = random(DIM, device=device) if with_bias else None
    seq_idx = (torch.rand(3, 40) < 0.2).cumsum(1).int().to(device)
    seq_idx[1, 30:] = -1
    out = baton.causal_conv1d_fn(x, weight, bias, seq_idx, activation="swish")
    judged = [double(t) for t in (x, weight, bias)]
    judge, _ = plain.convolution(*judged, seq_idx.cpu(), None, True)
    assert_close(out, judge, dtype, "out")
    assert not out[1, :, 30:].any()
    given = torch.randn(judge.shape, dtype=torch.float64).to(dtype)
    used = slice(0, 3 if with_bias else 2)
    ours = torch.autograd.grad(out, (x, weight, bias)[used], given.to(device))
    judges = torch.autograd.grad(judge, judged[used], given.double())
    for gradient, expected in zip(ours, judges):
        scale = max(1.0, expected.abs().max().item())
        assert_close(gradient / scale, expected / scale, dtype)
    assert not ours[0][1, :, 30:].any()


def test_layouts_of_the_input(device):
    values = torch.randn(2, 25, 3 * DIM, device=device)
    weight, bias = torch.randn(DIM, 4, device=device), torch.randn(DIM, device=device)
    last = values[:, :, DIM : 2 * DIM].transpose(1, 2)  # channels side by side, in a wider tensor
    first = last.contiguous()
    judge, _ = plain.convolution(*(double(t) for t in (first, weight, bias)))
    for x in (last, first, first[:, :, ::1].flip(2).flip(2)):
        out = baton.causal_conv1d_fn(x, weight, bias)
        assert_close(out, judge, torch.float32)
    assert baton.causal_conv1d_fn(last, weight, bias).stride(1) == 1
    assert baton.causal_conv1d_fn(first, weight, bias).stride(2) == 1


def test_final_states_are_written_where_they_are_wanted(device):
    x, weight = torch.randn(2, DIM, 9, device=device), torch.randn(DIM, 4, device=device)
    place = torch.empty(2, 3, DIM, device=device).transpose(1, 2)
    _, final = baton.causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=place)
    assert final.data_ptr() == place.data_ptr()
    torch.testing.assert_close(place, x[..., -3:])


def random_update(device, dtype, batch, seqlen, state_len, slots=None, dense=True):
    x = random(batch, DIM, seqlen, dtype=dtype, device=device).detach()
    shape = (slots or batch, DIM, state_len)
    state = random(*shape, dtype=dtype, device=device).detach()
    if not dense:
        state = state.transpose(1, 2).contiguous().transpose(1, 2)
    return x, state


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("seqlen", [1, 2, 5])
@pytest.mark.parametrize("extra", [0, 1, 6])
@pytest.mark.parametrize("dense", [True, False])
def test_update(device, dtype, seqlen, extra, dense):
    width = 4
    x, state = random_update(device, dtype, 3, seqlen, width - 1 + extra, dense=dense)
    weight, bias = random(DIM, width, device=device), random(DIM, device=device)
    before = double(state.clone())
    out = baton.causal_conv1d_update(x, state, weight, bias, "silu")
    judge, _ = plain.convolution(
        double(x), double(weight), double(bias), None, before[..., extra:], True
    )
    assert out.dtype == dtype and not out.requires_grad
    assert_close(out, judge, dtype, "out")
    behind = torch.cat([before, double(x)], -1)[..., -state.shape[2] :]
    torch.testing.assert_close(state.cpu().double(), behind)


def test_update_of_one_token_without_a_dim_for_it(device):
    x, state = random_update(device, torch.float32, 3, 1, 4)
    other = state.clone()
    weight = torch.randn(DIM, 4, device=device)
    out = baton.causal_conv1d_update(x.squeeze(-1), state, weight)
    assert out.shape == (3, DIM)
    torch.testing.assert_close(out, baton.causal_conv1d_update(x, other, weight).squeeze(-1))
    torch.testing.assert_close(state, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seqlen", [1, 3])
@pytest.mark.parametrize("dense", [True, False])
def test_update_in_slots(device, dtype, seqlen, dense):
    x, state = random_update(device, dtype, 4, seqlen, 4, slots=9, dense=dense)
    slots = torch.tensor([7, -1, 0, 3], dtype=torch.int32, device=device)
    weight = torch.randn(DIM, 4, device=device)
    before = state.clone()
    out = baton.causal_conv1d_update(x, state, weight, conv_state_indices=slots)
    valid = [0, 2, 3]
    taken = before[[7, 0, 3]]
    judge = baton.causal_conv1d_update(x[valid], taken, weight)
    torch.testing.assert_close(out[valid], judge)
    assert not out[1].any()
    before[[7, 0, 3]] = taken
    assert torch.equal(state, before)


@pytest.mark.parametrize("seqlen", [1, 2, 9])
@pytest.mark.parametrize("state_len", [3, 5])
def test_update_of_a_ring(device, seqlen, state_len):
    x, ring = random_update(device, torch.float32, 3, seqlen, state_len)
    ends = torch.tensor([0, 4, 1001], dtype=torch.int32, device=device)
    weight = torch.randn(DIM, 4, device=device)
    # The same inputs in their order, the newest last.
    order = (ends[:, None] + torch.arange(state_len, device=device)) % state_len
    straight = ring.gather(2, order.long()[:, None].expand(-1, DIM, -1))
    out = baton.causal_conv1d_update(x, ring, weight, cache_seqlens=ends)
    judge = baton.causal_conv1d_update(x, straight, weight)
    torch.testing.assert_close(out, judge)
    order = (ends[:, None] + seqlen + torch.arange(state_len, device=device)) % state_len
    torch.testing.assert_close(
        ring.gather(2, order.long()[:, None].expand(-1, DIM, -1)), straight
    )


def test_updates_continue_a_convolution(device):
    x, weight = torch.randn(2, DIM, 12, device=device), torch.randn(DIM, 4, device=device)
    whole = baton.causal_conv1d_fn(x, weight, activation="silu")
    state = torch.zeros(2, DIM, 4, device=device)
    parts = [
        baton.causal_conv1d_update(x[..., a:b], state, weight, activation="silu")
        for a, b in ((0, 1), (1, 2), (2, 7), (7, 8), (8, 12))
    ]
    torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_varlen_states(device):
    lengths = [5, 0, 1, 9]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device)
    x = torch.randn(sum(lengths) + 2, DIM, device=device)
    states = baton.causal_conv1d_varlen_states(x, cu_seqlens, 4)
    for state, begin, end in zip(states, cu_seqlens.tolist(), cu_seqlens.tolist()[1:]):
        kept = x[max(begin, end - 4) : end].t()
        torch.testing.assert_close(state[:, 4 - kept.shape[1] :], kept)
        assert not state[:, : 4 - kept.shape[1]].any()


def test_second_call_sees_a_changed_seq_idx(device):
    x, weight = torch.randn(1, DIM, 8, device=device), torch.ones(DIM, 2, device=device)
    seq_idx = torch.zeros(1, 8, dtype=torch.int32, device=device)
    one = baton.causal_conv1d_fn(x, weight, seq_idx=seq_idx)
    seq_idx[:, 4:] = 1
    two = baton.causal_conv1d_fn(x, weight, seq_idx=seq_idx)
    torch.testing.assert_close(two[..., 4], x[..., 4])
    torch.testing.assert_close(one[..., 4], x[..., 4] + x[..., 3])


def test_bad_arguments():
    x, weight = torch.zeros(2, DIM, 8), torch.zeros(DIM, 4)
    state = torch.zeros(2, DIM, 3)
    documents = torch.zeros(2, 8, dtype=torch.int32)
    function = baton.causal_conv1d_fn
    update = baton.causal_conv1d_update
    cases = [
        (function, (x[0], weight), {}, "x must have dims [batch, dim, seqlen], got shape [10, 8]"),
        (function, (x, weight[1:]), {}, "weight must have shape [dim, width] = [10, 4], got [9, 4]"),
        (
            function, (x, torch.zeros(DIM, 9)), {},
            "the width of weight must lie in [1, 8], got 9",
        ),
        (function, (x, weight, torch.zeros(3)), {}, "bias must have shape [dim] = [10], got [3]"),
        (
            function, (x, weight), dict(seq_idx=documents, initial_states=state),
            "initial_states and return_final_states do not go with seq_idx",
        ),
        (
            function, (x, weight), dict(initial_states=torch.zeros(2, DIM, 4)),
            "initial_states must have shape [batch, dim, width - 1] = [2, 10, 3], got [2, 10, 4]",
        ),
        (function, (x.int(), weight), {}, "x must be floating, got torch.int32"),
        (
            update, (x, torch.zeros(2, DIM, 2), weight), {},
            "conv_state must hold width - 1 = 3 inputs, got 2",
        ),
        (
            update, (x, torch.zeros(3, DIM, 3), weight), {},
            "conv_state must have shape [batch, dim, state_len] = [2, 10, 3], got [3, 10, 3]",
        ),
        (
            update, (x, state, weight), dict(cache_seqlens=torch.zeros(2)),
            "cache_seqlens must be int32 or int64, got torch.float32",
        ),
    ]  # fmt: skip
    for called, arguments, options, message in cases:
        with pytest.raises(ValueError) as caught:
            called(*arguments, **options)
        assert str(caught.value) == f"{called.__name__}: {message}"
    for called, arguments in ((function, (x, weight)), (update, (x, state, weight))):
        with pytest.raises(NotImplementedError, match="activation must be None, 'silu' or 'swish'"):
            called(*arguments, activation="relu")


def test_gradients_by_finite_differences():
    x, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 7), (3, 4), (3,))
    )
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1, -1], [0, 1, 1, 1, 1, 2, 2]])

    def convolve(*tensors):
        return baton.causal_conv1d_fn(*tensors, seq_idx=seq_idx, activation="silu")

    assert torch.autograd.gradcheck(convolve, (x, weight, bias))
    assert math.isfinite(convolve(x, weight, bias).sum().item())
