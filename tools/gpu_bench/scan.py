# SPDX-License-Identifier: Apache-2.0
"""The scan, its gradients, the whole path around it, and one token of it."""

import dataclasses
import functools
import math

import torch

from . import peers
from .case import Case, even_starts, leaves, randn

ops = torch.ops.baton
CHUNKS = (64, 128, 256)
CONV_WIDTH = 4


@dataclasses.dataclass(frozen=True)
class Size:
    """`batch` sequences of `length` tokens; heads, channels a head, groups, states."""

    batch: int
    length: int
    H: int
    P: int = 64
    G: int = 8
    N: int = 128

    @property
    def tokens(self):
        return self.batch * self.length

    @property
    def inner(self):
        return self.H * self.P

    @property
    def conv(self):
        return self.inner + 2 * self.G * self.N

    @property
    def projected(self):
        return self.inner + self.conv + self.H

    def __str__(self):
        return f"b{self.batch} L{self.length} H{self.H} P{self.P} G{self.G} N{self.N}"

    def scan_bytes(self):
        """x and y, B and C, dt, in bf16."""
        return 2 * self.tokens * (2 * self.inner + 2 * self.G * self.N + self.H)

    def scan_flops(self):
        """Of chunks of 64, the fewest: states, outputs from them, and products within a chunk."""
        chunk = 64
        head = 4 * self.N * self.P + chunk * self.P
        return self.tokens * (self.H * head + self.G * chunk * self.N)


# Triton compiles for numbers that divide by 16, or not, apart: as in the last of the large sizes.
SMALL = Size(1, 1024, 64)
LARGE = (Size(1, 8192, 128), Size(4, 4096, 64), Size(1, 65536, 64))


def per_head(size, device):
    """A, D and the bias of dt as a model starts with them."""
    heads = size.H
    if device == "meta":
        return {name: torch.empty(heads, device=device) for name in ("A", "D", "dt_bias")}
    dt = torch.exp(torch.rand(heads, device=device) * math.log(100.0)) * 1e-3
    return {
        "A": -(1 + 15 * torch.rand(heads, device=device)),
        "D": torch.ones(heads, device=device),
        "dt_bias": dt + torch.log(-torch.expm1(-dt)),
    }


def scan_inputs(size, device):
    return {
        "x": randn(device, size.tokens, size.H, size.P),
        "dt": randn(device, size.tokens, size.H, scale=0.5),
        "B": randn(device, size.tokens, size.G, size.N),
        "C": randn(device, size.tokens, size.G, size.N),
        "dy": randn(device, size.tokens, size.H, size.P),
        "starts": even_starts(device, size.batch, size.length),
        **per_head(size, device),
    }


GRADIENTS = ("x", "dt", "A", "B", "C", "D", "dt_bias")


def our_scan(i):
    return lambda: ops.ssd(i["x"], i["dt"], i["A"], i["B"], i["C"], i["starts"], i["D"],
                           i["dt_bias"])[:1]


def our_scan_backward(i):
    return lambda: ops.ssd_backward(i["dy"], None, i["x"], i["dt"], i["A"], i["B"], i["C"],
                                    i["starts"], i["D"], i["dt_bias"])[:7]


def peer_scan(size, chunk):
    def call(x, dt, A, B, C, D, dt_bias):
        x, dt, B, C = (t.unflatten(0, (size.batch, size.length)) for t in (x, dt, B, C))
        y = peers.module("ssd_combined").mamba_chunk_scan_combined(
            x, dt, A, B, C, chunk, D=D, dt_bias=dt_bias, dt_softplus=True)
        return y.flatten(0, 1)

    def forward(i):
        return lambda: (call(*(i[name] for name in GRADIENTS)),)

    def backward(i):
        wanted = leaves(i, GRADIENTS)
        y = call(*wanted)
        return lambda: torch.autograd.grad(y, wanted, i["dy"], retain_graph=True)

    return forward, backward


@functools.cache
def scan_cases(size, small=None):
    forwards, backwards = {}, {}
    for chunk in CHUNKS if peers.has("mamba_ssm") else ():
        name = f"mamba_ssm, chunk {chunk}"
        forwards[name], backwards[name] = peer_scan(size, chunk)
    smalls = scan_cases(small) if small else (None, None)

    def make(device):
        return scan_inputs(size, device)

    # The backward reads x, B, C, dt and dy, and writes as many gradients.
    backward_bytes = 2 * size.scan_bytes() - 2 * size.tokens * size.inner
    return (
        Case(f"ssd forward, {size}", ("ssd",), make, our_scan, forwards, size.scan_bytes(),
             size.scan_flops(), small=smalls[0]),
        Case(f"ssd backward, {size}", ("ssd_backward",), make, our_scan_backward, backwards,
             backward_bytes, 3 * size.scan_flops(), small=smalls[1]),
    )


def document_inputs(size, documents, device):
    """Those of a scan over one sequence, and the starts of documents of random length in it."""
    cuts = torch.randperm(size.tokens - 1, generator=torch.Generator().manual_seed(0))
    inner = cuts[:documents - 1].sort().values + 1
    ends = torch.tensor([size.tokens])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), inner, ends]).int()
    return {**scan_inputs(size, device), "documents": starts.to(device)}


def scan_over(starts, gradients):
    """The scan over sequences that begin at inputs[starts]."""
    def forward(i, x, dt, A, B, C, D, dt_bias):
        return ops.ssd(x, dt, A, B, C, i[starts], D, dt_bias, final_states=False)[:1]

    def alone(i):
        return lambda: forward(i, *(i[name] for name in GRADIENTS))

    def both(i):
        wanted = leaves(i, GRADIENTS)
        return lambda: torch.autograd.grad(forward(i, *wanted), wanted, i["dy"])

    return both if gradients else alone


def document_cases(size, documents):
    """Many documents beside one sequence of as many tokens, which takes the place of a peer."""
    backward_bytes = 2 * size.scan_bytes() - 2 * size.tokens * size.inner
    for gradients in (False, True):
        yield Case(f"ssd{' with gradients' if gradients else ''}, {documents} documents, {size}",
                   ("ssd", "ssd_backward"),
                   lambda device: document_inputs(size, documents, device),
                   scan_over("documents", gradients),
                   {"one sequence": scan_over("starts", gradients)},
                   size.scan_bytes() + gradients * backward_bytes,
                   (4 if gradients else 1) * size.scan_flops())


def state_case(size, small=None):
    def ours(i):
        return lambda: ops.ssd_state(i["x"], i["dt"], i["A"], i["B"], i["starts"], i["dt_bias"])
    read = 2 * size.tokens * (size.inner + size.G * size.N + size.H)
    return Case(f"ssd_state, {size}", ("ssd_state",), lambda device: scan_inputs(size, device),
                ours, bytes=read, flops=2 * size.tokens * size.H * size.N * size.P,
                small=state_case(small) if small else None)


PATH = ("projected", "conv_weight", "conv_bias", "dt_bias", "A", "D")


def path_inputs(size, device):
    return {
        "projected": randn(device, size.tokens, size.projected),
        "conv_weight": randn(device, size.conv, CONV_WIDTH, scale=0.5),
        "conv_bias": randn(device, size.conv, scale=0.5),
        "dout": randn(device, size.tokens, size.inner),
        "starts": even_starts(device, size.batch, size.length),
        **per_head(size, device),
    }


def our_path(size, starts, projected, conv_weight, conv_bias, dt_bias, A, D):
    """Convolution, scan and gate of what in_proj gives: z, x, B, C, dt."""
    return ops.mamba2_mixer(projected, conv_weight, conv_bias, A, starts, D, dt_bias, None, size.G)


def peer_path(size, chunk, projected, conv_weight, conv_bias, dt_bias, A, D):
    out = peers.module("ssd_combined").mamba_split_conv1d_scan_combined(
        projected.unflatten(0, (size.batch, size.length)), conv_weight, conv_bias, dt_bias, A, D,
        chunk, headdim=size.P, ngroups=size.G)
    return out.flatten(0, 1)


def forward_of(path):
    def prepare(i):
        def call():
            with torch.no_grad():
                return (path(i, *(i[name] for name in PATH)),)
        return call
    return prepare


def both_of(path):
    def prepare(i):
        wanted = leaves(i, PATH)
        return lambda: torch.autograd.grad(path(i, *wanted), wanted, i["dout"])
    return prepare


@functools.cache
def path_cases(size, small=None):
    def ours(i, *tensors):
        return our_path(size, i["starts"], *tensors)

    theirs = {}
    if peers.has("mamba_ssm") and peers.has("causal_conv1d"):
        theirs = {f"split kernel, chunk {chunk}":
                  lambda i, *tensors, chunk=chunk: peer_path(size, chunk, *tensors)
                  for chunk in CHUNKS}
    smalls = path_cases(small) if small else (None, None)

    def make(device):
        return path_inputs(size, device)

    forward_bytes = 2 * size.tokens * (size.projected + size.inner)
    both_bytes = 2 * size.tokens * (3 * size.projected + 2 * size.inner)
    needs = ("causal_conv1d", "ssd", "gated_norm")
    backwards = ("mamba2_mixer_backward",)
    return (
        Case(f"convolution, scan, gate, {size}", needs, make, forward_of(ours),
             {name: forward_of(path) for name, path in theirs.items()}, forward_bytes,
             size.scan_flops(), small=smalls[0]),
        Case(f"convolution, scan, gate with gradients, {size}", needs + backwards, make,
             both_of(ours), {name: both_of(path) for name, path in theirs.items()}, both_bytes,
             4 * size.scan_flops(), small=smalls[1]),
    )


def our_step(i):
    def call():
        y = ops.ssd_step_(i["x"], i["dt"], i["A"], i["B"], i["C"], i["states"], i["slots"], i["D"],
                          i["dt_bias"])
        return y, i["states"]
    return call


def peer_step(size):
    def prepare(i):
        update = peers.module("selective_state_update").selective_state_update
        A = i["A"][:, None, None].expand(size.H, size.P, size.N)
        D, bias = (i[name][:, None].expand(size.H, size.P) for name in ("D", "dt_bias"))
        dt = i["dt"][:, :, None].expand(size.batch, size.H, size.P)

        def call():
            y = update(i["states"], i["x"], dt, A, i["B"], i["C"], D, dt_bias=bias,
                       dt_softplus=True)
            return y, i["states"]
        return call
    return prepare


@functools.cache
def slots_of(batch, device):
    """One tensor for all sets of inputs, as it is one for all layers of a model."""
    return torch.arange(batch, dtype=torch.int32, device=device)


@functools.cache
def step_case(size, small=None):
    def make(device):
        inputs = scan_inputs(size, device)
        del inputs["dy"], inputs["starts"]
        states = randn(device, size.batch, size.H, size.P, size.N, dtype=torch.float32)
        return {**inputs, "states": states, "slots": slots_of(size.batch, device)}

    theirs = {"mamba_ssm": peer_step(size)} if peers.has("mamba_ssm") else {}
    traffic = 2 * 4 * size.batch * size.inner * size.N + size.scan_bytes()
    return Case(f"ssd_step_, batch {size.batch}, H{size.H} P{size.P} N{size.N}, fp32 states",
                ("ssd_step_",), make, our_step, theirs, traffic, graph=True,
                small=step_case(small) if small else None)


def cases(small):
    yield from (case for size in ((SMALL,) if small else LARGE)
                for case in scan_cases(size, SMALL))
    for size in ((SMALL,) if small else (LARGE[2], Size(1, 2**18, 64))):
        yield from document_cases(size, 20 if small else 1000)
    yield state_case(SMALL if small else LARGE[2], SMALL)
    yield from (case for size in ((SMALL,) if small else (LARGE[1], LARGE[0]))
                for case in path_cases(size, SMALL))
    for batch in ((8,) if small else (1, 8, 64, 256)):
        yield step_case(Size(batch, 1, 64), Size(8, 1, 64))
