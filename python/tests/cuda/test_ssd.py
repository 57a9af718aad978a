# SPDX-License-Identifier: Apache-2.0
"""The scan, its states and its step on CUDA, against the CPU operators in fp64."""

import pytest
import torch

# Relative to the largest value. fp32 rounds products and sums of a few hundred terms. bf16 rounds
# weights, states and scaled inputs by 2^-9 each before the tensor units multiply them, and outputs.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
DTYPES = [torch.float32, torch.bfloat16]


def int32(values, device="cpu"):
    return torch.tensor(values, dtype=torch.int32, device=device)


def starts_of(lengths):
    return [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def expect_close(got, expected, dtype, scale=None):
    assert got.shape == expected.shape
    if got.numel() > 0:
        scale = expected.abs().max().item() if scale is None else scale
        error = (got.double().cpu() - expected).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(scale, 1e-3)


class Case:
    """Inputs of a scan: values that the dtype holds exactly, as fp64 on the CPU."""

    def __init__(self, lengths, H=2, P=8, G=1, N=16, dtype=torch.float32, skip="head", slots=None,
                 **options):
        torch.manual_seed(len(lengths) + sum(lengths) + P + N)
        T = sum(lengths)
        self.dtype = dtype
        self.lengths = lengths
        self.x = self.values(T, H, P)
        self.dt = self.values(T, H)
        self.A = (-torch.rand(H) - 0.05).double()
        self.B = self.values(T, G, N)
        self.C = self.values(T, G, N)
        self.D = {"none": None, "head": torch.randn(H).double(),
                  "channel": torch.randn(H, P).double()}[skip]
        self.bias = (torch.randn(H) - 1).double()
        self.slots = slots
        self.states = None
        if slots is not None:
            self.states = torch.randn(max(slots + [0]) + 1, H, P, N).double()
        self.options = options

    def values(self, *shape):
        return torch.randn(shape).to(self.dtype).double()

    def arguments(self, move=None, parameter=None):
        """x to initial_slots: activations by `move`, parameters and states by `parameter`."""
        move = move or (lambda tensor: tensor)
        parameter = parameter or (lambda tensor: tensor)
        optional = lambda tensor, to: None if tensor is None else to(tensor)  # noqa: E731
        device = parameter(self.A).device
        return [
            move(self.x), move(self.dt), parameter(self.A), move(self.B), move(self.C),
            int32(starts_of(self.lengths), device), optional(self.D, parameter),
            parameter(self.bias), optional(self.states, parameter),
            None if self.slots is None else int32(self.slots, device),
        ]

    def run(self, ops, device, view=None):
        move = lambda tensor: tensor.to(device, self.dtype)  # noqa: E731
        move = move if view is None else view(move)
        arguments = self.arguments(move, lambda tensor: tensor.to(device, torch.float32))
        return ops.ssd(*arguments, **self.options)

    def judged(self, judge):
        return judge.ssd(*self.arguments(), **self.options)


def check(case, ops, judge, device, view=None):
    y, states = case.run(ops, device, view)
    assert y.dtype == case.dtype and states.dtype == torch.float32
    expected_y, expected_states = case.judged(judge)
    expect_close(y, expected_y, case.dtype)
    expect_close(states, expected_states, case.dtype)
    again = case.run(ops, device, view)
    assert torch.equal(y, again[0]) and torch.equal(states, again[1])


@pytest.mark.parametrize("lengths", [[70], [0], [300, 290]])
@pytest.mark.parametrize("P, N", [(8, 16), (64, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_need_no_final_states(ops, device, lengths, P, N, dtype):
    case = Case(lengths, P=P, N=N, dtype=dtype)
    y, _ = case.run(ops, device)
    case.options["final_states"] = False
    alone, states = case.run(ops, device)
    assert torch.equal(y, alone)
    assert states.shape == (0, 2, P, N)


@pytest.mark.parametrize("P, N", [(8, 16), (64, 64), (64, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_sequences(ops, judge, device, dtype, P, N):
    """Many of them share a chunk: no state passes from one to the next."""
    lengths = [1, 0, 3, 64, 130, 1, 1, 0, 0, 63, 2, 700, 65, 5] + [1] * 70 + [9] * 20 + [0]
    case = Case(lengths, P=P, N=N, dtype=dtype, final_states=False)
    y, states = case.run(ops, device)
    expect_close(y, case.judged(judge)[0], dtype)
    assert states.size(0) == 0
    assert torch.equal(y, case.run(ops, device)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "lengths", [[0], [1], [31, 32, 33], [63], [64], [65], [200], [5, 0, 64, 1, 130, 0]], ids=str)
def test_lengths(ops, judge, device, dtype, lengths):
    slots = [(b + 1) % len(lengths) if b % 2 == 0 else -1 for b in range(len(lengths))]
    check(Case(lengths, dtype=dtype, slots=slots), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "P, N", [(1, 1), (5, 7), (31, 33), (24, 64), (64, 128), (80, 72), (128, 16), (61, 255), (64, 256)])
def test_sizes(ops, judge, device, dtype, P, N):
    check(Case([70, 3], P=P, N=N, dtype=dtype, slots=[1, -1]), ops, judge, device)


# The sizes of large models, for which sm_90a has a kernel of its own.
@pytest.mark.parametrize("N", [64, 128])
@pytest.mark.parametrize("lengths", [[1], [64, 0, 130], [66, 3]], ids=str)
def test_sizes_of_large_models(ops, judge, device, lengths, N):
    slots = list(range(len(lengths)))
    check(Case(lengths, H=4, P=64, G=2, N=N, dtype=torch.bfloat16, slots=slots), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("G", [1, 2, 4])
def test_groups(ops, judge, device, dtype, G):
    check(Case([66], H=4, G=G, dtype=dtype), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("skip", ["none", "head", "channel"])
def test_skips(ops, judge, device, dtype, skip):
    check(Case([40, 30], P=9, dtype=dtype, skip=skip), ops, judge, device)


@pytest.mark.parametrize(
    "options",
    [{"dt_softplus": False, "dt_min": 0.01}, {"dt_min": 0.2, "dt_max": 0.9}, {"dt_max": 0.5}],
    ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_time_steps(ops, judge, device, dtype, options):
    check(Case([70], dtype=dtype, **options), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_time_steps(ops, judge, device, dtype):
    case = Case([90], dtype=dtype)
    case.dt[::3] += 25.0  # beyond where softplus is the identity
    case.A *= 40.0
    check(case, ops, judge, device)


def test_fp32_time_steps_beside_bf16(ops, judge, device):
    case = Case([70], dtype=torch.bfloat16)
    case.dt += 1e-3  # no longer bf16
    move = lambda tensor: tensor.to(  # noqa: E731
        device, torch.float32 if tensor is case.dt else torch.bfloat16)
    y, states = ops.ssd(*case.arguments(move, lambda tensor: tensor.to(device, torch.float32)))
    expected = case.judged(judge)
    expect_close(y, expected[0], case.dtype)
    expect_close(states, expected[1], case.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1, 8])
def test_views_of_a_wider_projection(ops, judge, device, dtype, shift):
    def view(move):
        def part(tensor):
            moved = move(tensor)
            width = moved[0].numel()
            wide = torch.full(
                (moved.shape[0], width + 8 + shift), float("nan"), dtype=moved.dtype, device=device)
            wide[:, shift : shift + width] = moved.flatten(1)
            return wide[:, shift : shift + width].view(moved.shape)

        return part

    check(Case([70, 9], P=16, dtype=dtype), ops, judge, device, view)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_heads(ops, judge, device, dtype):
    def view(move):
        return lambda tensor: (
            move(tensor).transpose(-1, -2).contiguous().transpose(-1, -2))

    check(Case([33], H=3, P=16, G=3, dtype=dtype), ops, judge, device, view)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_short_sequences(ops, judge, device, dtype):
    check(Case([b % 10 for b in range(40)], dtype=dtype), ops, judge, device)


# Few heads of long sequences: these are cut in segments of 512 tokens.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[1300], [700, 0, 513, 3]], ids=str)
def test_segments(ops, judge, device, dtype, lengths):
    case = Case(lengths, H=1, P=4, N=8, dtype=dtype, slots=list(range(len(lengths))))
    case.A *= 0.05
    case.dt = (case.dt - 3.0).to(dtype).double()  # so that states live on for hundreds of tokens
    check(case, ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [1, 64, 100])
def test_split_anywhere_is_whole(ops, judge, device, dtype, at):
    case = Case([130, 20], dtype=dtype, slots=[1, 0])
    expected_y, expected_states = case.judged(judge)
    arguments = case.arguments(
        lambda tensor: tensor.to(device, dtype), lambda tensor: tensor.to(device, torch.float32))
    states, outputs = arguments[8], []
    for first, end in [(0, at), (at, 130)]:
        part = list(arguments)
        for i in (0, 1, 3, 4):
            part[i] = arguments[i][first:end]
        part[5] = int32([0, end - first], device)
        part[8], part[9] = states, int32([1 if first == 0 else 0], device)
        y, states = ops.ssd(*part)
        outputs.append(y)
    expect_close(torch.cat(outputs), expected_y[:130], dtype, expected_y.abs().max().item())
    expect_close(states, expected_states[:1], dtype, expected_states.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("P, N", [(8, 16), (64, 128)])
def test_prefill_is_step_by_step(ops, judge, device, emulated, dtype, P, N):
    length = 20 if emulated else 200
    case = Case([length], P=P, N=N, dtype=dtype, skip="channel", slots=[0])
    expected_y, expected_states = case.judged(judge)
    x, dt, A, B, C, _, D, bias, states, _ = case.arguments(
        lambda tensor: tensor.to(device, dtype), lambda tensor: tensor.to(device, torch.float32))
    y = torch.cat([
        ops.ssd_step_(x[t : t + 1], dt[t : t + 1], A, B[t : t + 1], C[t : t + 1], states,
                      int32([0], device), D, bias)
        for t in range(length)])
    expect_close(y, expected_y, dtype)
    expect_close(states, expected_states, torch.float32)


def check_states(case, ops, judge, device, reverse):
    run = lambda where, arguments: (  # noqa: E731
        where.ssd_state_grad(arguments[0], *arguments[1:3], *arguments[4:6], arguments[7])
        if reverse
        else where.ssd_state(*arguments[:4], arguments[5], arguments[7]))
    arguments = case.arguments(
        lambda tensor: tensor.to(device, case.dtype),
        lambda tensor: tensor.to(device, torch.float32))
    states, log_decay = run(ops, arguments)
    assert states.dtype == torch.float32 and log_decay.dtype == torch.float32
    expected_states, expected_decay = run(judge, case.arguments())
    expect_close(states, expected_states, case.dtype)
    expect_close(log_decay, expected_decay, torch.float32)
    assert torch.equal(states, run(ops, arguments)[0])


@pytest.mark.parametrize("reverse", [False, True], ids=["state", "state_grad"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "lengths", [[0], [1], [31, 32, 33], [63, 64], [65], [200], [5, 0, 64, 1, 130, 0]], ids=str)
def test_state_lengths(ops, judge, device, dtype, lengths, reverse):
    check_states(Case(lengths, G=2, dtype=dtype), ops, judge, device, reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["state", "state_grad"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("P, N", [(5, 7), (31, 33), (64, 128), (80, 72), (61, 255)])
def test_state_sizes(ops, judge, device, dtype, P, N, reverse):
    check_states(Case([70, 3], P=P, N=N, dtype=dtype), ops, judge, device, reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["state", "state_grad"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_segments(ops, judge, device, dtype, reverse):
    case = Case([700, 0, 513, 3], H=1, P=4, N=8, dtype=dtype)
    case.A *= 0.05
    case.dt = (case.dt - 3.0).to(dtype).double()
    check_states(case, ops, judge, device, reverse)


# Slots that no sequence names must stay as they are; those of a wider tensor lie further apart.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "P, N, wide", [(1, 1, False), (5, 7, False), (33, 64, True), (64, 128, False), (70, 256, True)])
def test_step(ops, judge, device, dtype, P, N, wide):
    B, H, G = 5, 4, 2
    case = Case([B], H=H, P=P, G=G, N=N, dtype=dtype, slots=[3, -1, 0, 7, 2])
    storage = torch.randn(9, 2 if wide else 1, H, P, N)
    states = storage[:, -1].double().contiguous()
    arguments = case.arguments()
    judged = [*arguments[:5], states, int32(case.slots), arguments[6], arguments[7]]
    expected = judge.ssd_step_(*judged)
    on_device = storage.to(device)
    x, dt, A, Bm, C, _, D, bias, _, slots = case.arguments(
        lambda tensor: tensor.to(device, dtype), lambda tensor: tensor.to(device, torch.float32))
    y = ops.ssd_step_(x, dt, A, Bm, C, on_device[:, -1], slots, D, bias)
    assert y.dtype == dtype
    expect_close(y, expected, dtype)
    expect_close(on_device[:, -1], states, torch.float32)
    for slot in (1, 4, 5, 6, 8):
        assert torch.equal(on_device[slot].cpu(), storage[slot])
    if wide:
        assert torch.equal(on_device[:, 0].cpu(), storage[:, 0])


def test_step_without_sequences(ops, device):
    states = torch.randn(2, 3, 4, 5, device=device)
    before = states.clone()
    y = ops.ssd_step_(
        torch.empty(0, 3, 4, device=device), torch.empty(0, 3, device=device),
        -torch.ones(3, device=device), torch.empty(0, 1, 5, device=device),
        torch.empty(0, 1, 5, device=device), states, int32([], device))
    assert y.shape == (0, 3, 4) and torch.equal(states, before)


def test_no_sequences(ops, device):
    case = Case([])
    y, states = case.run(ops, device)
    assert y.shape == (0, 2, 8) and states.shape == (0, 2, 8, 16)


def test_refused(ops, device):
    with pytest.raises(RuntimeError, match="state dim of at most 256"):
        Case([3], N=257).run(ops, device)
    case = Case([3], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="fp32 or bf16"):
        ops.ssd(*case.arguments(*[lambda tensor: tensor.to(device)] * 2))
    with pytest.raises(RuntimeError, match="no sequence for 3 tokens"):
        case = Case([3])
        arguments = case.arguments(*[lambda tensor: tensor.to(device, torch.float32)] * 2)
        ops.ssd(*arguments[:5], int32([0], device))
    with pytest.raises(RuntimeError, match="one entry a sequence"):
        case = Case([3, 2], slots=[0, 1, 2])
        case.run(ops, device)


# lengths, H, P, G, N
LARGE = [([8192], 16, 64, 2, 128), ([4096, 100, 3000], 32, 64, 8, 128), ([20000], 2, 128, 1, 256)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths, H, P, G, N", LARGE, ids=str)
def test_large(ops, judge, device, emulated, dtype, lengths, H, P, G, N):
    if emulated:
        pytest.skip("too large for the emulator")
    case = Case(lengths, H=H, P=P, G=G, N=N, dtype=dtype, slots=list(range(len(lengths))))
    check(case, ops, judge, device)
    check_states(case, ops, judge, device, reverse=False)
    check_states(case, ops, judge, device, reverse=True)


def test_offsets_beyond_32_bits(ops, device, emulated):
    if emulated:
        pytest.skip("too large for the emulator")
    T, H, P, N, tail = 600_000, 64, 64, 16, 300
    torch.manual_seed(0)
    new = lambda *shape: torch.randn(shape, dtype=torch.bfloat16, device=device)  # noqa: E731
    x, dt, B, C = new(T, H, P), new(T, H), new(T, 1, N), new(T, 1, N)
    A = -torch.rand(H, device=device) - 0.05
    y, states = ops.ssd(x, dt, A, B, C, int32([0, T - tail, T], device))
    alone = ops.ssd(x[-tail:], dt[-tail:], A, B[-tail:], C[-tail:], int32([0, tail], device))
    assert torch.equal(y[-tail:], alone[0]) and torch.equal(states[1:], alone[1])
