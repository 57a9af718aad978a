# SPDX-License-Identifier: Apache-2.0
"""A mixer as one operator on CUDA, against the CPU's operators one after the other in fp64."""

import re

import pytest
import torch

# Relative to the largest value. fp32 as in test_ssd.py, through two operators more; bf16 rounds what
# goes from one operator to the next by 2^-9 each.
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 2e-2}
# Of all values together, relative to theirs: from end to end a norm of few channels stretches single
# values that were rounded before it.
TOLERANCE_TOGETHER = {torch.float32: 5e-5, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [[0], [1], [63, 1, 0, 65], [300], [5] * 40]
EPS = 1e-5
LIMITS = (0.01, 2.0)
NAMES = ("projected", "conv_weight", "conv_bias", "A", "D", "dt_bias", "norm_weight")


def expect_close(got, expected, dtype, what):
    assert got.shape == expected.shape, what
    if got.numel() > 0:
        scale = max(expected.abs().max().item(), 1e-3)
        error = (got.double().cpu() - expected).abs().max().item()
        assert error <= TOLERANCE[dtype] * scale, (what, error / scale)


def expect_close_together(got, expected, dtype, what):
    assert got.shape == expected.shape, what
    error = (got.double().cpu() - expected).norm().item()
    assert error <= TOLERANCE_TOGETHER[dtype] * max(expected.norm().item(), 1e-3), what


class Case:
    """Inputs that the dtype holds exactly, as fp64 on the CPU."""

    def __init__(self, lengths, dtype, H, P, G, N, norm, extra=0, skip="head", K=4):
        torch.manual_seed(sum(lengths) + P + N)
        T, inner, conv = sum(lengths), H * P, H * P + 2 * G * N
        self.dtype, self.H, self.P, self.G, self.N = dtype, H, P, G, N
        self.extra = extra  # columns in front of the projected ones, so that rows lie apart
        self.norm = (inner // G, norm != "gate last")
        self.starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)]).int()
        half = lambda *shape: torch.randn(shape).to(dtype).double()  # noqa: E731
        self.inputs = {
            "projected": half(T, extra + inner + conv + H),
            "conv_weight": half(conv, K) / 2,
            "conv_bias": None if norm == "none" else half(conv) / 2,
            "A": (-torch.rand(H) - 0.05).double(),
            "D": {"none": None, "head": torch.randn(H).double(),
                  "channel": torch.randn(H, P).double()}[skip],
            "dt_bias": (torch.randn(H) - 1).double(),
            "norm_weight": None if norm == "none" else torch.rand(inner).double() + 0.5,
        }
        self.dout = half(T, inner)

    def leaves(self, device=None, requires_grad=True):
        """In fp64 on the CPU; with a device, as the operator takes them there."""
        def leaf(name, tensor):
            if tensor is None:
                return None
            wide = torch.float32 if name in ("A", "D", "dt_bias", "norm_weight") else self.dtype
            copy = tensor.clone() if device is None else tensor.to(device, wide)
            return copy.requires_grad_(requires_grad)
        return {name: leaf(name, tensor) for name, tensor in self.inputs.items()}

    def run(self, ops, i, device):
        return ops.mamba2_mixer(
            i["projected"][:, self.extra:], i["conv_weight"], i["conv_bias"], i["A"],
            self.starts.to(device), i["D"], i["dt_bias"], i["norm_weight"], self.G, EPS,
            *self.norm, *LIMITS)

    def judged(self, judge, i):
        H, P, G, N = self.H, self.P, self.G, self.N
        z, xbc, dt = i["projected"][:, self.extra:].split([H * P, H * P + 2 * G * N, H], 1)
        xbc, _ = judge.causal_conv1d(xbc, i["conv_weight"], i["conv_bias"], self.starts)
        x, B, C = xbc.split([H * P, G * N, G * N], 1)
        y, _ = judge.ssd(
            x.unflatten(1, (H, P)), dt, i["A"], B.unflatten(1, (G, N)), C.unflatten(1, (G, N)),
            self.starts, i["D"], i["dt_bias"], None, None, True, *LIMITS)
        return judge.gated_norm(y.flatten(1), z, i["norm_weight"], EPS, *self.norm)


def gradients_of(case, operators, i, made):
    """The operator of the gradients, for dout and outputs of the scan and of the convolution."""
    return operators.mamba2_mixer_backward(
        *made, i["projected"][:, case.extra:], i["conv_weight"], i["conv_bias"], i["A"],
        case.starts.to(i["A"].device), i["D"], i["dt_bias"], i["norm_weight"], case.G, EPS,
        *case.norm, *LIMITS)


def check_gradients(case, ops, judge, device):
    T, inner = case.dout.shape
    y = torch.randn(T, inner).to(case.dtype)
    convolved = torch.randn(T, inner + 2 * case.G * case.N).to(case.dtype)

    def call(operators, i, where, dtype):
        made = [t.to(where, dtype) for t in (case.dout, y, convolved)]
        return gradients_of(case, operators, i, made)

    there = case.leaves(device, requires_grad=False)
    found = call(ops, there, device, case.dtype)
    wanted = call(judge, case.leaves(requires_grad=False), "cpu", torch.float64)
    assert len(found) == len(NAMES)
    for name, gradient, right in zip(NAMES, found, wanted):
        expect_close(gradient, right, case.dtype, f"gradient of {name}")
    again = call(ops, there, device, case.dtype)
    assert all(torch.equal(*both) for both in zip(found, again))


def check(case, ops, judge, device):
    check_gradients(case, ops, judge, device)
    if device == "cpu":  # the emulator has no autograd
        return
    ours, theirs = case.leaves(device), case.leaves()
    out = case.run(ops, ours, device)
    expected = case.judged(judge, theirs)
    assert out.dtype == case.dtype
    expect_close_together(out, expected, case.dtype, "out")
    with torch.no_grad():
        alone = case.run(ops, ours, device)
    expect_close_together(alone, expected.detach(), case.dtype, "out without gradients")
    names = [name for name, tensor in ours.items() if tensor is not None]
    dout = case.dout.to(device, case.dtype)
    found = torch.autograd.grad(out, [ours[name] for name in names], dout)
    wanted = torch.autograd.grad(expected, [theirs[name] for name in names], case.dout)
    for name, gradient, right in zip(names, found, wanted):
        assert gradient.dtype == ours[name].dtype
        expect_close_together(gradient, right, case.dtype, f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("norm", ["none", "gate first", "gate last"])
def test_lengths(ops, judge, device, dtype, lengths, norm):
    check(Case(lengths, dtype, 4, 16, 2, 16, norm), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["none", "gate first"])
@pytest.mark.parametrize("H, P, G, N", [(8, 64, 1, 128), (16, 64, 2, 64), (2, 100, 1, 200)])
def test_sizes(ops, judge, device, dtype, norm, H, P, G, N):
    check(Case([190, 64, 7], dtype, H, P, G, N, norm, skip="channel"), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("H, P, N, extra", [(3, 64, 128, 0), (8, 64, 128, 5), (8, 64, 128, 8),
                                            (3, 5, 7, 2)])
def test_rows_that_packs_do_not_fit(ops, judge, device, dtype, H, P, N, extra):
    """Widths and beginnings of rows at which kernels write values one by one, or elsewhere first."""
    check(Case([90, 1], dtype, H, P, 1, N, "none", extra, skip="none"), ops, judge, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_that_blocks_share(ops, judge, device, dtype):
    """Several blocks add up the gradients of one group's B and C."""
    check(Case([64], dtype, 16, 64, 1, 128, "gate first"), ops, judge, device)


def in_turn(case, ops, i, starts):
    """As one operator, by three."""
    H, P, G, N = case.H, case.P, case.G, case.N
    z, xbc, dt = i["projected"][:, case.extra:].split([H * P, H * P + 2 * G * N, H], 1)
    xbc, _ = ops.causal_conv1d(xbc, i["conv_weight"], i["conv_bias"], starts)
    x, B, C = xbc.split([H * P, G * N, G * N], 1)
    z_of_scan = z.unflatten(1, (H, P)) if i["norm_weight"] is None else None
    y, _ = ops.ssd(
        x.unflatten(1, (H, P)), dt, i["A"], B.unflatten(1, (G, N)), C.unflatten(1, (G, N)), starts,
        i["D"], i["dt_bias"], None, None, True, *LIMITS, final_states=False, z=z_of_scan)
    y = y.flatten(1)
    return y if z_of_scan is not None else ops.gated_norm(y, z, i["norm_weight"], EPS, *case.norm)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("norm", ["none", "gate first"])
@pytest.mark.parametrize("K", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("H, G, N, lengths", [
    (192, 2, 64, [1]), (192, 1, 128, [33]), (192, 8, 128, [1111]), (64, 8, 128, [1, 899, 0, 64, 700]),
    (128, 8, 64, [2100]), (128, 2, 128, [65] * 20)], ids=str)
def test_scan_convolves(ops, judge, device, emulated, H, G, N, lengths, K, norm, wide):
    """Without gradients, the scan of enough heads of 64 channels makes the convolution on its way, to
    the bit as the convolution alone."""
    if device == "cpu":
        pytest.skip("only sm_90a's scan convolves")
    case = Case(lengths, torch.bfloat16, H, 64, G, N, norm, extra=8, K=K)
    i = case.leaves(device, requires_grad=False)
    if wide:
        i |= {name: i[name].float() for name in ("conv_weight", "conv_bias") if i[name] is not None}
    out = case.run(ops, i, device)
    if H != 128:  # whose single sequence is cut where the scan does not convolve
        assert torch.equal(out, in_turn(case, ops, i, case.starts.to(device)))
    for _ in range(1 if emulated else 10):
        assert torch.equal(out, case.run(ops, i, device))
    if not wide:
        expected = case.judged(judge, case.leaves(requires_grad=False))
        expect_close_together(out, expected, case.dtype, "out")


@pytest.mark.parametrize("K, convolves", [(1, True), (4, True), (5, False)])
@pytest.mark.parametrize("norm", ["none", "gate first"])
def test_convolving_scan_is_what_runs(ops, device, emulated, norm, K, convolves):
    if emulated or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("only sm_90a's scan convolves, and a tool that watches kernels keeps others out")
    case = Case([1111], torch.bfloat16, 192, 64, 8, 128, norm, K=K)
    i = case.leaves(device, requires_grad=False)
    case.run(ops, i, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        case.run(ops, i, device)
        torch.cuda.synchronize()
    scans = [event.key for event in profile.key_averages() if "ssd_hopper" in event.key]
    assert len(scans) == 1, [event.key for event in profile.key_averages()]
    # Its last argument says so, as `true` or `(bool)1`.
    assert bool(re.search(r"ssd_hopper<[^>]*\b(true|1) *>", scans[0])) == convolves, scans[0]


@pytest.mark.parametrize("where", ["ops", "judge", "meta"])
@pytest.mark.parametrize("rows, columns, dtype", [
    (-1, 0, torch.float32), (0, -1, torch.float32), (0, 2, torch.float32), (0, 0, torch.bfloat16)])
def test_refuses_convolved_rows_that_do_not_fit(ops, judge, device, where, rows, columns, dtype):
    case = Case([5, 2], torch.float32, 2, 8, 1, 16, "gate first")
    place = {"ops": device, "judge": "cpu", "meta": "meta"}[where]
    convolved = torch.randn(7 + rows, 48 + columns, device=place).to(dtype)
    dout = case.dout.to(place, torch.float32)
    leaves = case.leaves(place, requires_grad=False)
    with pytest.raises(RuntimeError, match=r"convolved must be \[7, 48\] in Float"):
        gradients_of(case, ops if where == "ops" else judge, leaves, [dout, dout, convolved])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("lengths", [[0], [1], [64, 65, 0, 300]], ids=str)
@pytest.mark.parametrize("P, N", [(8, 16), (64, 64), (64, 128)])
def test_scan_gates(ops, judge, device, dtype, extra, lengths, P, N):
    torch.manual_seed(sum(lengths))
    T, H = sum(lengths), 4
    half = lambda *shape: torch.randn(shape).to(dtype).double()  # noqa: E731
    inputs = [half(T, H, P), half(T, H), (-torch.rand(H)).double(), half(T, 1, N), half(T, 1, N)]
    wide = half(T, extra + H * P)
    starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)]).int()
    y, states = judge.ssd(*inputs, starts)
    z = wide[:, extra:].unflatten(1, (H, P))
    expected = y * z * torch.sigmoid(z)
    there = [t.to(device, torch.float32 if t.dim() == 1 else dtype) for t in inputs]
    z_there = wide.to(device, dtype)[:, extra:].unflatten(1, (H, P))
    got, got_states = ops.ssd(*there, starts.to(device), z=z_there)
    expect_close(got, expected, dtype, "out")
    expect_close(got_states, states, dtype, "states")
    assert torch.equal(got, ops.ssd(*there, starts.to(device), z=z_there)[0])
    if device == "cpu":  # the emulator has no autograd
        return
    z_there.requires_grad_()
    with_gradient, _ = ops.ssd(*there, starts.to(device), z=z_there)
    expect_close(with_gradient, expected, dtype, "out that wants a gradient")
    dz, = torch.autograd.grad(with_gradient, z_there, torch.ones_like(with_gradient))
    s = torch.sigmoid(z)
    expect_close(dz, y * s * (1 + z * (1 - s)), dtype, "gradient of z")
