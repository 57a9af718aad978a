# SPDX-License-Identifier: Apache-2.0
"""AdamW on CUDA, against the CPU operator in the same dtypes and in fp64."""

import pytest
import torch

NUMBERS = {
    "lr": 0.01,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "step": 3,
    "grad_scale": 0.7,
}

# Parameter, gradient, and whether there is a master.
KINDS = [
    (torch.float64, torch.float64, False),
    (torch.float64, torch.float64, True),
    (torch.float32, torch.float32, False),
    (torch.bfloat16, torch.bfloat16, False),
    (torch.bfloat16, torch.bfloat16, True),
    (torch.bfloat16, torch.float32, False),
    (torch.bfloat16, torch.float32, True),
]

# The operators do the same roundings but where a processor has no fused multiply-add: then each
# result of an update differs by some units in the last place. A bf16 parameter may then round to
# the neighbour.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 8e-3}


def make_state(shape, kind, device="cpu", offset=0):
    """Parameter, gradient, both moments and master, each beginning `offset` values into its
    memory."""
    torch.manual_seed(1)
    parameter_dtype, grad_dtype, has_master = kind
    working = torch.float64 if parameter_dtype == torch.float64 else torch.float32

    def place(values, dtype):
        storage = torch.zeros(offset + values.numel(), dtype=dtype, device=device)
        view = storage[offset:].view(shape)
        view.copy_(values)
        return view

    weight = torch.randn(shape, dtype=torch.float64)
    return [
        place(weight, parameter_dtype),
        place(torch.randn(shape, dtype=torch.float64), grad_dtype),
        place(torch.randn(shape, dtype=torch.float64), working),
        place(torch.rand(shape, dtype=torch.float64), working),
        place(weight, working) if has_master else None,
    ]


def update(ops, state, **changes):
    ops.adamw_(*state, *{**NUMBERS, **changes}.values())
    return state


def expect_close(got, want, limit, name):
    """Relative to values of the order of 1, which updates are made of."""
    want = want.double()
    assert ((got.double().cpu() - want).abs() / (want.abs() + 1)).max().item() <= limit, name


def check(ops, judge, device, shape, kind, offset=0, **changes):
    want = update(judge, make_state(shape, kind), **changes)
    got = update(ops, make_state(shape, kind, device, offset), **changes)
    again = update(ops, make_state(shape, kind, device, offset), **changes)
    names = ("parameter", "grad", "exp_avg", "exp_avg_sq", "master")
    for name, result, expected, second in zip(names, got, want, again):
        if result is None:
            continue
        assert result.dtype == expected.dtype and torch.equal(result, second)
        if result.numel() > 0:
            expect_close(result, expected, TOLERANCE[result.dtype], name)
    if got[4] is not None:
        assert torch.equal(got[0], got[4].to(got[0].dtype)), "the master's rounding"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (4,), (5,), (33, 31), (64, 64), (5003,)])
def test_sizes(ops, judge, device, kind, shape):
    check(ops, judge, device, shape, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_tensors_within_others(ops, judge, device, kind, offset):
    check(ops, judge, device, (37,), kind, offset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1},
        {"step": 100_000},
        {"weight_decay": 0.0, "grad_scale": 1.0},
        {"beta1": 0.0, "beta2": 0.0},
        {"eps": 1e-3, "lr": 0.5},
    ],
)
def test_numbers(ops, judge, device, kind, changes):
    check(ops, judge, device, (130,), kind, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_stay(ops, device, kind):
    """An update at odd places writes nothing beside them."""
    state = make_state((37,), kind, device, 1)
    wholes = [each._base for each in state if each is not None]
    update(ops, state)
    for whole in wholes:
        assert whole[0].item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_follow_fp64(ops, judge, device, kind):
    """Against the formula in fp64 over some steps; a bf16 parameter without a master loses steps
    below its spacing, so only its moments are compared."""
    shape = (200,)
    state = make_state(shape, kind, device)
    exact = make_state(shape, (torch.float64, torch.float64, False))
    for own, other in zip(exact[:4], state):
        own.copy_(other)
    if state[4] is not None:
        exact[0].copy_(state[4])
    for step in range(1, 6):
        update(ops, state, step=step)
        update(judge, exact, step=step)
    limit = 1e-13 if kind[0] == torch.float64 else 1e-5
    for name, i in (("exp_avg", 2), ("exp_avg_sq", 3)):
        expect_close(state[i], exact[i], limit, name)
    weight = state[0] if state[4] is None else state[4]
    if weight.dtype != torch.bfloat16:
        expect_close(weight, exact[0], limit, "weight")


def test_strided_gradient(ops, device):
    state = make_state((6, 10), KINDS[2], device)
    twin = [None if each is None else each.clone() for each in state]
    state[1] = state[1].t().contiguous().t()
    update(ops, state)
    update(ops, twin)
    assert torch.equal(state[0], twin[0])


def test_zero_gradient_and_no_decay_change_nothing(ops, device):
    state = make_state((9,), KINDS[3], device)
    for each in state[1:4]:
        each.zero_()
    before = state[0].clone()
    update(ops, state, weight_decay=0.0)
    assert torch.equal(state[0], before)


def test_refuses_what_it_cannot_update(ops, device):
    parameter, grad, first, second, _ = make_state((4, 4), KINDS[2], device)
    for state in (
        [parameter, grad[:, :3], first, second, None],
        [parameter, grad.double(), first, second, None],
        [parameter.long(), grad, first, second, None],
        [parameter.t(), grad, first, second, None],
        [parameter, grad, first.double(), second, None],
        [parameter, grad, first.t(), second, None],
        [parameter, grad, first, second, parameter[:3]],
    ):
        with pytest.raises(RuntimeError):
            update(ops, state)
    for changes in ({"step": 0}, {"beta1": 1.0}, {"beta2": -0.1}):
        with pytest.raises(RuntimeError):
            update(ops, [parameter, grad, first, second, None], **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_large(ops, judge, device, emulated, kind):
    if emulated:
        pytest.skip("takes a GPU")
    check(ops, judge, device, (10_000_003,), kind)
