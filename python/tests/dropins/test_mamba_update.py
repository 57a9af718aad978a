# SPDX-License-Identifier: Apache-2.0
"""selective_state_update against the formula, for one value a head and for one a channel."""

import baton
import plain
import pytest
import torch

# One token; states and outputs in half precision are rounded.
TOLERANCES = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-5, atol=1e-5),
    torch.float16: dict(rtol=4e-3, atol=8e-3),
    torch.bfloat16: dict(rtol=2e-2, atol=6e-2),
}
BATCH, HEADS, DIM, GROUPS, STATE = 3, 4, 8, 2, 16


def update_inputs(device, dtype, tied, slots=BATCH, heads=HEADS, groups=GROUPS, softplus=True):
    def random(*shape, kind=dtype):
        return torch.randn(*shape, dtype=torch.float64).to(kind).to(device)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = dict(
        state=random(slots, heads, DIM, STATE),
        x=random(BATCH, heads, DIM),
        dt=random(BATCH, heads, DIM),
        A=-torch.rand(heads, DIM, STATE, dtype=wide).to(device) - 0.5,
        B=random(BATCH, groups, STATE),
        C=random(BATCH, groups, STATE),
        D=random(heads, DIM, kind=wide),
        z=random(BATCH, heads, DIM),
        dt_bias=random(heads, DIM, kind=wide),
    )
    if tied:
        inputs["dt"] = inputs["dt"][..., :1].expand(-1, -1, DIM)
        inputs["A"] = inputs["A"][:, :1, :1].expand(-1, DIM, STATE)
        inputs["dt_bias"] = inputs["dt_bias"][:, :1].expand(-1, DIM)
        inputs["D"] = inputs["D"][:, :1].expand(-1, DIM)
    inputs["dt_softplus"] = softplus
    return inputs


def double(inputs):
    return {k: v.cpu().double().clone() if torch.is_tensor(v) else v for k, v in inputs.items()}


def assert_close(ours, judge, dtype):
    torch.testing.assert_close(ours.cpu().double(), judge, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("softplus", [True, False])
def test_update(device, dtype, tied, softplus):
    if device == "cuda" and dtype == torch.float64 and tied:
        pytest.skip("CUDA's scan takes bf16 and fp32")
    inputs = update_inputs(device, dtype, tied, softplus=softplus)
    judge, judge_state = plain.state_update(**double(inputs))
    out = baton.selective_state_update(**inputs)
    assert out.dtype == dtype and out.shape == inputs["x"].shape
    assert_close(out, judge, dtype)
    assert_close(inputs["state"], judge_state, dtype)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("absent", ["D", "z", "dt_bias"])
def test_update_without_one_input(device, tied, absent):
    inputs = update_inputs(device, torch.float32, tied)
    inputs[absent] = None
    judge, judge_state = plain.state_update(**double(inputs))
    assert_close(baton.selective_state_update(**inputs), judge, torch.float32)
    assert_close(inputs["state"], judge_state, torch.float32)


def test_fp32_states_beside_bf16(device):
    inputs = update_inputs(device, torch.bfloat16, True)
    inputs["state"] = inputs["state"].float()
    place = inputs["state"].data_ptr()
    judge, judge_state = plain.state_update(**double(inputs))
    assert_close(baton.selective_state_update(**inputs), judge, torch.bfloat16)
    # The state itself was not rounded.
    assert_close(inputs["state"], judge_state, torch.float32)
    assert inputs["state"].data_ptr() == place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_slots(device, dtype, tied):
    inputs = update_inputs(device, dtype, tied, slots=7)
    slots = torch.tensor([5, -1, 0], device=device)
    before = inputs["state"].clone()
    judged = double(inputs)
    judged["state"] = judged["state"][[5, 0, 0]]
    judged["state"][1] = 0
    judge, judge_state = plain.state_update(**judged)
    out = baton.selective_state_update(**inputs, state_batch_indices=slots)
    assert_close(out, judge, dtype)
    assert_close(inputs["state"][[5, 0]], judge_state[[0, 2]], dtype)
    others = [1, 2, 3, 4, 6]
    assert torch.equal(inputs["state"][others], before[others])


@pytest.mark.parametrize("tied", [True, False])
def test_without_a_dim_of_heads(device, tied):
    inputs = update_inputs(device, torch.float32, tied, heads=1, groups=1)
    judge, judge_state = plain.state_update(**double(inputs))
    keep = ("dt_softplus",)
    flat = {k: v if k in keep or v is None else v for k, v in inputs.items()}
    for name in ("state", "x", "dt", "B", "C", "z"):
        flat[name] = inputs[name][:, 0]
    for name in ("A", "D", "dt_bias"):
        flat[name] = inputs[name][0]
    out = baton.selective_state_update(**flat)
    assert out.shape == (BATCH, DIM)
    assert_close(out, judge[:, 0], torch.float32)
    assert_close(flat["state"], judge_state[:, 0], torch.float32)


def test_steps_equal_the_scan(device):
    seqlen = 9
    A = -torch.rand(HEADS, device=device) - 0.2
    D, dt_bias = torch.randn(HEADS, device=device), torch.randn(HEADS, device=device)
    x, z = torch.randn(2, BATCH, seqlen, HEADS, DIM, device=device)
    dt = torch.randn(BATCH, seqlen, HEADS, device=device)
    B, C = torch.randn(2, BATCH, seqlen, GROUPS, STATE, device=device)
    whole, final = baton.mamba_chunk_scan_combined(
        x, dt, A, B, C, 16, D=D, z=z, dt_bias=dt_bias, dt_softplus=True, return_final_states=True
    )
    state = torch.zeros(BATCH, HEADS, DIM, STATE, device=device)
    for t in range(seqlen):
        out = baton.selective_state_update(
            state,
            x[:, t],
            dt[:, t, :, None].expand(-1, -1, DIM),
            A[:, None, None].expand(-1, DIM, STATE),
            B[:, t],
            C[:, t],
            D[:, None].expand(-1, DIM),
            z[:, t],
            dt_bias[:, None].expand(-1, DIM),
            True,
        )
        torch.testing.assert_close(out, whole[:, t], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, final, rtol=1e-4, atol=1e-4)


def test_no_gradient_flows(device):
    inputs = update_inputs(device, torch.float32, True)
    inputs["x"].requires_grad_()
    assert not baton.selective_state_update(**inputs).requires_grad


def test_bad_arguments():
    inputs = update_inputs("cpu", torch.float32, False)
    cases = {
        "state must have dims [batch, dim, dstate] or [batch, nheads, dim, dstate], got shape"
        " [3, 4]": dict(state=torch.zeros(3, 4)),
        "x must have shape [batch, nheads, dim] = [3, 4, 8], got [3, 4, 7]": dict(
            x=torch.zeros(3, 4, 7)
        ),
        "A must have shape [nheads, dim, dstate] = [4, 8, 16], got [4, 8, 1]": dict(
            A=torch.zeros(4, 8, 1)
        ),
        "nheads must be a multiple of ngroups, got 4 and 3": dict(
            B=torch.zeros(3, 3, 16), C=torch.zeros(3, 3, 16)
        ),
        "state must hold one state a sequence, got 5 for a batch of 3": dict(
            state=torch.zeros(5, 4, 8, 16)
        ),
        "state_batch_indices must have shape [batch] = [3], got [2]": dict(
            state_batch_indices=torch.zeros(2, dtype=torch.int32)
        ),
    }
    for message, options in cases.items():
        with pytest.raises(ValueError) as caught:
            baton.selective_state_update(**{**inputs, **options})
        assert str(caught.value) == "selective_state_update: " + message
