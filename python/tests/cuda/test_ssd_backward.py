# SPDX-License-Identifier: Apache-2.0
"""All gradients of the scan on a GPU against the operator in fp64 on the CPU."""

import dataclasses

import pytest
import torch

NAMES = ("dx", "ddt", "dA", "dB", "dC", "dD", "ddt_bias", "dinitial_states")

# Relative to the norm of a gradient. fp32: a unit of 6e-8, in sums of hundreds of terms of both
# signs, and exponents of up to some hundreds, whose rounding the exponential multiplies.
FP32_TOLERANCE = 2e-5
# bf16: a unit of 4e-3, rounded to nearest, for what tensor units multiply and for the results;
# test_bf16_errs_as_its_inputs_do bounds it by the effect of rounding the inputs.
BF16_TOLERANCE = 6e-3
# Sums over all tokens of both signs, of which less is left than of their terms.
BF16_SUM_TOLERANCE = 4e-2
SUMS = ("dA", "ddt_bias")


@dataclasses.dataclass
class Case:
    lengths: list
    H: int = 4
    P: int = 64
    G: int = 2
    N: int = 64
    D: str = "heads"  # "none", "heads", "channels"
    bias: bool = True
    dfinal: bool = True
    slots: list | None = None  # None: no initial states; [] one state a sequence, no slots
    num_slots: int = 0
    dt_min: float = 0.0
    dt_max: float | None = None
    softplus: bool = True
    dtype: torch.dtype = torch.float32
    parameters: torch.dtype = torch.float32
    dt_dtype: torch.dtype | None = None  # of dt; None: dtype
    strong: float = 1.0  # factor of A
    strided: bool = False
    odd_base: bool = False


def make(case, seed=0):
    """The arguments in fp64, already rounded to the dtypes that the operator will get."""
    generator = torch.Generator().manual_seed(seed)
    tokens, B = sum(case.lengths), len(case.lengths)

    def rand(*shape, dtype=case.dtype):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    H, P, G, N = case.H, case.P, case.G, case.N
    arguments = {
        "dy": rand(tokens, H, P),
        "dfinal_states": rand(B, H, P, N, dtype=torch.float32) if case.dfinal else None,
        "x": rand(tokens, H, P),
        "dt": rand(tokens, H, dtype=case.dt_dtype or case.dtype),
        "A": -case.strong * (0.05 + rand(H, dtype=case.parameters).abs()),
        "B": rand(tokens, G, N),
        "C": rand(tokens, G, N),
        "starts": torch.tensor([0, *case.lengths]).cumsum(0).to(torch.int32),
    }
    if case.D != "none":
        shape = (H,) if case.D == "heads" else (H, P)
        arguments["D"] = rand(*shape, dtype=case.parameters)
    if case.bias:
        arguments["dt_bias"] = rand(H, dtype=case.parameters) - 1
    if case.slots is not None:
        count = case.num_slots if case.slots else B
        arguments["initial_states"] = rand(count, H, P, N, dtype=torch.float32)
        if case.slots:
            arguments["initial_slots"] = torch.tensor(case.slots, dtype=torch.int32)
    arguments.update(dt_softplus=case.softplus, dt_min=case.dt_min, dt_max=case.dt_max)
    return arguments


def as_views(arguments, case):
    """x, B, C and dt as slices of one wide projection, dy of another; odd_base: one value later."""
    tokens = arguments["x"].size(0)
    skip = 1 if case.odd_base else 0

    def slices(names):
        sizes = [arguments[name][0:1].numel() if tokens else 0 for name in names]
        wide = torch.zeros(tokens, skip + 8 + sum(sizes) + 3 * skip, dtype=case.dtype)
        at = skip
        for name, size in zip(names, sizes, strict=True):
            view = wide[:, at : at + size]
            view.copy_(arguments[name].reshape(tokens, size))
            arguments[name] = (wide, at, size, arguments[name].shape)
            at += size
        return wide

    def view_of(device_wide, entry):
        _, at, size, shape = entry
        return device_wide[:, at : at + size].unflatten(1, shape[1:])

    names = [["x", "B", "C"], ["dy"]]
    if arguments["dt"].dtype == case.dtype:
        names[0].append("dt")
    views = {}
    for group in names:
        wide = slices(group)
        views.update({name: (wide, arguments[name]) for name in group})
    return views, view_of


def on_device(arguments, case, device):
    arguments = dict(arguments)
    if case.strided and arguments["x"].size(0) > 0:
        views, view_of = as_views(arguments, case)
        wides = {id(wide): wide.to(device) for wide, _ in views.values()}
        for name, (wide, entry) in views.items():
            arguments[name] = view_of(wides[id(wide)], entry)
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def in_fp64(arguments):
    return {
        name: value.double()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in arguments.items()
    }


def relative_errors(got, want):
    errors = {}
    for name, ours, theirs in zip(NAMES, got, want, strict=True):
        assert ours.shape == theirs.shape, name
        if theirs.numel() == 0:
            continue
        difference = (ours.double().cpu() - theirs).norm().item()
        norm = theirs.norm().item()
        errors[name] = difference / norm if norm > 0 else difference
    return errors


def check(case, ops, judge, device, tolerance=FP32_TOLERANCE):
    arguments = make(case)
    got = ops.ssd_backward(**on_device(arguments, case, device))
    want = judge.ssd_backward(**in_fp64(arguments))
    dtypes = {"dx": "x", "ddt": "dt", "dA": "A", "dB": "B", "dC": "C"}
    dtypes.update(dD="D", ddt_bias="dt_bias", dinitial_states="initial_states")
    for name, ours in zip(NAMES, got, strict=True):
        like = arguments.get(dtypes[name])
        assert ours.dtype == (arguments["x"] if like is None else like).dtype, name
        assert ours.is_contiguous(), name
    errors = relative_errors(got, want)
    for name, error in errors.items():
        limit = BF16_SUM_TOLERANCE if name in SUMS else BF16_TOLERANCE
        assert error <= (limit if case.dtype == torch.bfloat16 else tolerance), errors
    return errors


DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths(ops, judge, device, length, dtype):
    check(Case([length], dtype=dtype, H=2, slots=[]), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_sequences(ops, judge, device, dtype):
    check(Case([], dtype=dtype, slots=[], num_slots=0, dfinal=False), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_that_no_sequence_starts_from(ops, judge, device, dtype):
    arguments = make(Case([], dtype=dtype, dfinal=False))
    arguments["initial_states"] = torch.randn(3, 4, 64, 64)
    arguments["initial_slots"] = torch.empty(0, dtype=torch.int32)
    got = ops.ssd_backward(**on_device(arguments, Case([]), device))
    for name, ours, right in zip(NAMES, got, judge.ssd_backward(**in_fp64(arguments)), strict=True):
        assert torch.equal(ours.cpu(), right.to(ours.dtype)), name


def test_refused(ops, device):
    case = Case([3, 2], H=2, G=1, P=8, N=16, slots=[0, 1], num_slots=2)
    good = on_device(make(case), case, device)
    with pytest.raises(RuntimeError, match="one entry a sequence"):
        ops.ssd_backward(**{**good, "initial_slots": good["initial_slots"][:1]})
    with pytest.raises(RuntimeError, match="no sequence for 5 tokens"):
        ops.ssd_backward(**{**good, "starts": good["starts"][:1]})


@pytest.mark.parametrize(
    "name",
    ["dy", "dfinal_states", "dt", "A", "B", "C", "starts", "D", "dt_bias", "initial_states",
     "initial_slots"])
def test_tensors_of_another_device(ops, device, name):
    case = Case([3, 2], H=2, G=1, P=8, N=16, slots=[0, 1], num_slots=2)
    arguments = on_device(make(case), case, device)
    # A tensor that the call still dispatches to the GPU's operator with.
    arguments[name] = arguments[name].to("meta" if device == "cpu" else "cpu")
    with pytest.raises(RuntimeError, match=f"{name} must be on {device}"):
        ops.ssd_backward(**arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_short_sequences(ops, judge, device, dtype):
    lengths = [3, 0, 1, 66, 0, 0, 2, 1, 64, 5, 0]
    slots = [2, 0, -1, 2, 4, -1, 0, 2, 5, 1, 4]
    case = Case(lengths, H=2, G=1, dtype=dtype, slots=slots, num_slots=7)
    check(case, ops, judge, device)


@pytest.mark.parametrize("G", [1, 2, 6])
def test_groups(ops, judge, device, G):
    check(Case([70], H=6, G=G, P=16, N=16), ops, judge, device)
    check(Case([70], H=6, G=G, P=16, N=16, dtype=torch.bfloat16), ops, judge, device)


@pytest.mark.parametrize("P, N", [(1, 1), (7, 5), (33, 72), (72, 40), (128, 128), (80, 256), (64, 200)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes(ops, judge, device, P, N, dtype):
    check(Case([67, 9], H=2, G=1, P=P, N=N, dtype=dtype, slots=[0, 0], num_slots=1), ops, judge, device)


@pytest.mark.parametrize("D", ["none", "heads", "channels"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_skip(ops, judge, device, D, dtype):
    check(Case([65, 3], H=2, G=1, P=24, N=16, D=D, dtype=dtype), ops, judge, device)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softplus", [False, True])
def test_limits_that_cut(ops, judge, device, bias, softplus):
    case = Case([70], H=4, G=1, P=16, N=16, bias=bias, softplus=softplus, dt_min=0.3, dt_max=0.9)
    arguments = make(case)
    ddt = ops.ssd_backward(**on_device(arguments, case, device))[1].cpu()
    raw = arguments["dt"].double() + (arguments["dt_bias"].double() if bias else 0)
    steps = torch.nn.functional.softplus(raw) if softplus else raw
    cut = (steps < 0.3) | (steps > 0.9)
    assert cut.any() and not cut.all()
    assert torch.equal(ddt == 0, cut)
    check(case, ops, judge, device)


@pytest.mark.parametrize("strong", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("P, N", [(8, 16), (64, 64), (64, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sequences_that_share_chunks(ops, judge, device, dtype, P, N, strong):
    lengths = [1, 0, 3, 64, 130, 1, 0, 63, 2, 400, 65, 5] + [1] * 40 + [9] * 20 + [0]
    case = Case(lengths, P=P, N=N, dtype=dtype, dfinal=False, strong=strong)
    check(case, ops, judge, device)


@pytest.mark.parametrize("dfinal", [False, True])
@pytest.mark.parametrize("slots", [None, [], [1, 1, -1]])
def test_states(ops, judge, device, dfinal, slots):
    case = Case([66, 0, 4], H=2, G=1, P=16, N=32, dfinal=dfinal, slots=slots, num_slots=3)
    check(case, ops, judge, device)
    check(dataclasses.replace(case, dtype=torch.bfloat16), ops, judge, device)


@pytest.mark.parametrize("P, N", [(64, 64), (24, 40), (7, 9)])
@pytest.mark.parametrize("odd_base", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(ops, judge, device, P, N, odd_base, dtype):
    case = Case([66], H=2, G=1, P=P, N=N, dtype=dtype, strided=True, odd_base=odd_base)
    check(case, ops, judge, device)


def test_parameters_in_bf16(ops, judge, device):
    case = Case([66], H=2, G=1, P=16, N=16, dtype=torch.bfloat16, parameters=torch.bfloat16)
    check(case, ops, judge, device)


@pytest.mark.parametrize("dtype, dt_dtype", [DTYPES, DTYPES[::-1]])
def test_time_steps_of_another_dtype(ops, judge, device, dtype, dt_dtype):
    case = Case([66], H=2, G=1, P=16, N=16, dtype=dtype, dt_dtype=dt_dtype)
    check(case, ops, judge, device, BF16_TOLERANCE)


@pytest.mark.parametrize("strong", [1e-3, 30.0])
def test_weak_and_strong_decays(ops, judge, device, strong):
    check(Case([130], H=2, G=1, P=32, N=16, strong=strong), ops, judge, device)


def test_decays_are_not_differences_of_large_sums(ops, judge, device):
    """A token with a strong decay and large values beside tokens with small ones of both."""
    case = Case([64], H=1, G=1, P=16, N=16, bias=False, softplus=False, D="none", dfinal=False)
    arguments = make(case)
    arguments["dt"] = torch.full_like(arguments["dt"], 0.05)
    arguments["dt"][5] = 40.0
    arguments["x"][:8] *= 1e3
    arguments["A"] = torch.full_like(arguments["A"], -2.0)
    ddt = ops.ssd_backward(**on_device(arguments, case, device))[1].double().cpu()
    want = judge.ssd_backward(**in_fp64(arguments))[1]
    after = slice(8, None)
    assert (ddt[after] - want[after]).norm() <= FP32_TOLERANCE * want[after].norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_bits_of_two_runs(ops, device, dtype):
    case = Case([130, 3], H=4, G=1, P=16, N=16, dtype=dtype, slots=[0, 0], num_slots=2)
    arguments = on_device(make(case), case, device)
    first = ops.ssd_backward(**arguments)
    second = ops.ssd_backward(**arguments)
    for name, one, two in zip(NAMES, first, second, strict=True):
        assert torch.equal(one, two), name


def test_bf16_errs_as_its_inputs_do(ops, judge, device, emulated):
    """Rounding the inputs to bf16 moves the gradients by more than the operator's own rounding."""
    case = Case([150, 40], H=4, G=1, P=64, N=128, slots=[], dtype=torch.float64)
    exact = make(case)
    case.dtype = torch.bfloat16
    rounded = dict(exact)
    for name in ("dy", "x", "dt", "B", "C"):
        rounded[name] = exact[name].to(torch.bfloat16)
    truth = judge.ssd_backward(**in_fp64(exact))
    of_rounded = judge.ssd_backward(**in_fp64(rounded))
    of_inputs = relative_errors(of_rounded, truth)
    ours = relative_errors(ops.ssd_backward(**on_device(rounded, case, device)), of_rounded)
    report = {name: (f"{ours[name]:.1e}", f"{of_inputs[name]:.1e}") for name in ours}
    print(report)
    assert all(ours[name] <= 1.2 * of_inputs[name] for name in ours), report


LARGE = [
    Case([4096, 1000, 3000], H=32, G=2, P=64, N=128, slots=[0, -1, 0], num_slots=2),
    Case([2048], H=16, G=1, P=128, N=256, slots=[]),
    Case([1] * 300 + [70] * 20, H=8, G=8, P=64, N=128, slots=[]),
]


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large(ops, judge, device, emulated, case, dtype):
    if emulated:
        pytest.skip("large sizes are for a GPU")
    check(dataclasses.replace(case, dtype=dtype), ops, judge, device)
