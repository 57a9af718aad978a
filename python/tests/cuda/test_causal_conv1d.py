# SPDX-License-Identifier: Apache-2.0
"""The causal convolution and its gradients on CUDA, against the CPU operators in fp64."""

import pytest
import torch

# Relative to the largest value. Sums are fp32 for bf16 inputs too, and results are rounded once.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-3}

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
BFLOAT16_PARAMETERS = [torch.float32, torch.bfloat16]

# A thread takes runs of 16 tokens or more, four of which make a block's tile; lengths around both.
LENGTHS = {
    "none": [],
    "empty": [0],
    "one": [1],
    "shorter than the state": [2],
    "below a run": [15],
    "a run": [16],
    "above a run": [17],
    "below a tile": [63],
    "above a tile": [65],
    "many": [3, 0, 70, 1, 2, 0, 33, 0, 0],
    "ones": [1] * 20,
    "all empty": [0, 0, 0],
}


def widths(emulated, dtype):
    """Each width and dtype is a kernel of its own, which the emulator takes seconds to compile."""
    if not emulated:
        return range(1, 9)
    return {torch.float64: [4], torch.float32: [2, 4], torch.bfloat16: [1, 4, 8]}[dtype]


class Case:
    """Inputs of one call and of its gradient, on the CPU."""

    def __init__(self, lengths, channels, width, dtype, parameters=None, states=None, slots=None,
                 bias=True, num_slots=None):
        torch.manual_seed(1)
        parameters = parameters or dtype
        tokens, sequences = sum(lengths), len(lengths)
        self.dtype = dtype
        self.x = torch.randn(tokens, channels).to(dtype)
        self.dy = torch.randn(tokens, channels).to(dtype)
        self.weight = torch.randn(channels, width).to(parameters)
        self.bias = torch.randn(channels).to(parameters) if bias else None
        self.starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self.states = None
        if states is not None:
            count = sequences if slots is None else num_slots or 3
            # A state holds inputs, so its values are those of x's dtype whatever it is stored in.
            self.states = torch.randn(count, channels, width - 1).to(dtype).to(states)
        self.slots = None if slots is None else torch.tensor(slots, dtype=torch.int32)
        final_dtype = states or dtype
        self.dfinal = torch.randn(sequences, channels, width - 1).to(final_dtype)

    def forward(self, convert):
        tensors = (self.x, self.weight, self.bias, self.starts, self.states, self.slots)
        return [convert(each) for each in tensors]

    def backward(self, convert, dfinal=True):
        return [convert(self.dy), convert(self.dfinal if dfinal else None), *self.forward(convert)]


def for_judge(tensor):
    return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor


def on(device):
    return lambda tensor: None if tensor is None else tensor.to(device)


def expect_close(got, want, limit, name):
    assert got.shape == want.shape, name
    if want.numel() > 0:
        error = (got.double().cpu() - want).abs().max().item()
        assert error <= limit * max(want.abs().max().item(), 1e-30), name


def expect_equal(first, second, name):
    assert first.dtype == second.dtype and torch.equal(first, second), name


def check(ops, judge, device, case, silu=True, dfinal=True):
    limit = TOLERANCE[case.dtype]
    want_y, want_final = judge.causal_conv1d(*case.forward(for_judge), silu)
    arguments = case.forward(on(device))
    y, final = ops.causal_conv1d(*arguments, silu)
    assert y.dtype == case.dtype
    assert final.dtype == (case.dtype if case.states is None else case.states.dtype)
    expect_close(y, want_y, limit, "y")
    assert torch.equal(final.double().cpu(), want_final), "a state is a copy of inputs"
    for first, second in zip((y, final), ops.causal_conv1d(*arguments, silu)):
        expect_equal(first, second, "two runs")

    want = judge.causal_conv1d_backward(*case.backward(for_judge, dfinal), silu)
    arguments = case.backward(on(device), dfinal)
    got = ops.causal_conv1d_backward(*arguments, silu)
    names = ("dx", "dweight", "dbias", "dstates")
    for name, given, result, expected in zip(
        names, (case.x, case.weight, case.bias, case.states), got, want
    ):
        assert given is None or result.dtype == given.dtype
        expect_close(result, expected, limit, name)
    for name, first, second in zip(names, got, ops.causal_conv1d_backward(*arguments, silu)):
        expect_equal(first, second, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_lengths(ops, judge, device, dtype, lengths):
    check(ops, judge, device, Case(lengths, 12, 4, dtype, states=dtype))
    check(ops, judge, device, Case(lengths, 7, 4, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_widths(ops, judge, device, emulated, dtype):
    lengths = [5, 0, 41, 1, 2]
    for width in widths(emulated, dtype):
        check(ops, judge, device, Case(lengths, 8, width, dtype, states=dtype), silu=width % 2 == 0)
        check(ops, judge, device, Case(lengths, 5, width, dtype, states=dtype), silu=width % 2 == 1)


@pytest.mark.parametrize("channels", [1, 3, 4, 124, 128, 132, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels(ops, judge, device, dtype, channels):
    check(ops, judge, device, Case([20, 3], channels, 4, dtype, states=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_options(ops, judge, device, dtype, silu, bias):
    case = Case([9, 0, 30], 8, 4, dtype, states=dtype, bias=bias)
    check(ops, judge, device, case, silu=silu)
    check(ops, judge, device, case, silu=silu, dfinal=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [6, 8])
def test_sequences_that_share_slots(ops, judge, device, dtype, channels):
    slots = [2, 0, -1, 2, 1, -1, 2]
    lengths = [3, 0, 70, 1, 2, 0, 33]
    check(ops, judge, device, Case(lengths, channels, 4, dtype, states=dtype, slots=slots))


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_that_no_sequence_starts_from(ops, judge, device, dtype):
    check(ops, judge, device, Case([], 6, 4, dtype, states=dtype, slots=[], num_slots=3))


@pytest.mark.parametrize("parameters", BFLOAT16_PARAMETERS)
@pytest.mark.parametrize("states", BFLOAT16_PARAMETERS)
@pytest.mark.parametrize("channels", [6, 8])
def test_wide_parameters_and_states_beside_bfloat16(
    ops, judge, device, parameters, states, channels
):
    case = Case([1, 0, 40], channels, 4, torch.bfloat16, parameters, states, [1, 2, 0])
    check(ops, judge, device, case)


def test_wide_states_keep_bits_that_bfloat16_has_not(ops, judge, device):
    """Columns that stay are copied; the convolution reads them in x's dtype."""
    case = Case([1, 0, 40], 8, 4, torch.bfloat16, states=torch.float32)
    case.states = torch.randn_like(case.states)
    y, final = ops.causal_conv1d(*case.forward(on(device)), True)
    want_y, want_final = judge.causal_conv1d(*case.forward(lambda tensor: tensor), True)
    expect_close(y, want_y.double(), TOLERANCE[torch.bfloat16], "y")
    assert torch.equal(final.cpu(), want_final)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(ops, judge, device, dtype):
    """Slices of wider rows, from places that packs fit to and others, and turned tensors."""
    whole = Case([20, 0, 13], 8, 4, dtype, states=dtype)
    want = ops.causal_conv1d(*whole.forward(on(device)), True)
    want += ops.causal_conv1d_backward(*whole.backward(on(device)), True)
    for before, after in ((0, 4), (4, 4), (1, 3), (8, 1)):
        case = Case([20, 0, 13], 8, 4, dtype, states=dtype)
        for name in ("x", "dy"):
            rows = torch.nn.functional.pad(getattr(whole, name), (before, after)).to(device)
            setattr(case, name, rows[:, before : before + 8])
        case.weight = whole.weight.t().contiguous().t()
        case.bias = torch.stack([whole.bias, whole.bias], 1)[:, 0]
        case.states = whole.states.to(device).transpose(1, 2).contiguous().transpose(1, 2)
        case.dfinal = whole.dfinal.transpose(0, 1).contiguous().transpose(0, 1)
        got = ops.causal_conv1d(*case.forward(on(device)), True)
        got += ops.causal_conv1d_backward(*case.backward(on(device)), True)
        for i, (first, second) in enumerate(zip(got, want)):
            expect_close(first, second.double().cpu(), TOLERANCE[dtype], str(i))


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_with_the_state_carried_are_the_whole(ops, device, dtype):
    case = Case([90], 12, 4, dtype)
    x, weight, bias, starts, _, _ = case.forward(on(device))
    want = ops.causal_conv1d(x, weight, bias, starts, None, None, True)
    for lengths in ([1, 2, 87], [40, 0, 50], [2, 86, 2]):
        state = torch.zeros(1, 12, 3, dtype=dtype, device=device)
        parts = []
        for part in x.split(lengths):
            starts = torch.tensor([0, len(part)], dtype=torch.int32, device=device)
            y, state = ops.causal_conv1d(part, weight, bias, starts, state, None, True)
            parts.append(y)
        assert torch.equal(torch.cat(parts), want[0])
        assert torch.equal(state, want[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [5, 12])
def test_steps_are_the_whole(ops, device, emulated, dtype, channels):
    for width in widths(emulated, dtype):
        case = Case([11], channels, width, dtype)
        x, weight, bias, starts, _, _ = case.forward(on(device))
        want_y, want_final = ops.causal_conv1d(x, weight, bias, starts, None, None, True)
        states = torch.zeros(3, channels, width - 1, dtype=dtype, device=device)
        slots = torch.tensor([2, -1], dtype=torch.int32, device=device)
        for t in range(11):
            rows = x[t].expand(2, channels)
            y = ops.causal_conv1d_step_(rows, weight, bias, states, slots, True)
            expect_close(y[0], want_y[t].double().cpu(), TOLERANCE[dtype], "step")
            one = torch.tensor([0, 1], dtype=torch.int32, device=device)
            alone, _ = ops.causal_conv1d(x[t : t + 1], weight, bias, one, None, None, True)
            expect_close(y[1], alone[0].double().cpu(), TOLERANCE[dtype], "slot -1")
        assert torch.equal(states[2], want_final[0])
        assert states[:2].count_nonzero().item() == 0


@pytest.mark.parametrize("parameters", BFLOAT16_PARAMETERS)
@pytest.mark.parametrize("state_dtype", BFLOAT16_PARAMETERS)
@pytest.mark.parametrize("gap", [0, 2, 8])
def test_step_on_slots_of_a_cache(ops, judge, device, parameters, state_dtype, gap):
    """Slots that lie apart, states wider than x, and no activation."""
    torch.manual_seed(2)
    channels, width = 12, 4
    cache = torch.randn(5, channels * (width - 1) + gap).to(state_dtype)
    x = torch.randn(3, channels).to(torch.bfloat16)
    weight, bias = torch.randn(channels, width).to(parameters), torch.randn(channels).to(parameters)
    slots = torch.tensor([3, -1, 0], dtype=torch.int32)

    def run(library, target):
        rows = cache.clone().to(target)
        states = rows[:, : channels * (width - 1)].unflatten(1, (channels, width - 1))
        arguments = (each.to(target) for each in (x, weight, bias, states, slots))
        return library.causal_conv1d_step_(*arguments, False), rows

    y, rows = run(ops, device)
    want_y, want_rows = run(judge, "cpu")
    expect_close(y, want_y.double(), TOLERANCE[torch.bfloat16], "y")
    assert torch.equal(rows.cpu(), want_rows)


def test_slots_out_of_range_are_left_alone(ops, device):
    case = Case([4], 8, 4, torch.float32)
    x, weight, bias, _, _, _ = case.forward(on(device))
    states = torch.ones(2, 8, 3, device=device)
    slots = torch.tensor([2, -3, 1 << 30, -1], dtype=torch.int32, device=device)
    ops.causal_conv1d_step_(x, weight, bias, states, slots, True)
    assert torch.equal(states, torch.ones_like(states))


def test_refuses_what_does_not_fit(ops, device):
    case = Case([4], 8, 4, torch.float32)
    x, weight, bias, starts, _, _ = case.forward(on(device))
    states = torch.zeros(1, 8, 3, device=device)
    slots = torch.zeros(1, dtype=torch.int32, device=device)
    with pytest.raises(RuntimeError):
        ops.causal_conv1d(x, weight, bias, starts.long(), None, None, True)
    with pytest.raises(RuntimeError):
        ops.causal_conv1d(x, weight, bias, starts, states[:, :, :2], None, True)
    with pytest.raises(RuntimeError):
        ops.causal_conv1d(x, weight, bias, starts, None, slots, True)
    with pytest.raises(RuntimeError):
        ops.causal_conv1d(x, torch.ones(8, 9, device=device), None, starts, None, None, True)
    with pytest.raises(RuntimeError, match="no sequence for 4 tokens"):
        ops.causal_conv1d(x, weight, bias, starts[:1], None, None, True)
    with pytest.raises(RuntimeError, match="no sequence for 4 tokens"):
        ops.causal_conv1d_backward(x, None, x, weight, bias, starts[:1], None, None, True)
    turned = states.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(RuntimeError):
        ops.causal_conv1d_step_(x[:1], weight, bias, turned, slots, True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_runs(ops, judge, device, emulated, dtype):
    """Enough tokens for runs above the shortest."""
    tokens = 9000 if emulated else 400_000
    check(ops, judge, device, Case([tokens - 70, 1, 69], 4, 4, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2304, 4352])
def test_large(ops, judge, device, emulated, dtype, channels):
    if emulated:
        pytest.skip("takes a GPU")
    lengths = [3000, 0, 1, 517, 2, 4096]
    check(ops, judge, device, Case(lengths, channels, 4, dtype, states=dtype))


def test_autograd_on_the_device(ops, device, emulated):
    if emulated:
        pytest.skip("the emulator has no autograd")
    case = Case([50, 14], 16, 4, torch.bfloat16, torch.float32, torch.float32)
    x, weight, bias, starts, states, _ = case.forward(on(device))
    leaves = (x, weight, bias, states)
    for leaf in leaves:
        leaf.requires_grad_()
    results = ops.causal_conv1d(x, weight, bias, starts, states, None, True)
    torch.autograd.backward(results, (case.dy.to(device), case.dfinal.to(device)))
    want = ops.causal_conv1d_backward(
        *(each.detach() if each is not None else None for each in case.backward(on(device))), True
    )
    for leaf, gradient in zip(leaves, want):
        assert torch.equal(leaf.grad, gradient)
