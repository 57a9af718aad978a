# SPDX-License-Identifier: Apache-2.0
"""Baton's scan where mamba_ssm's was called: the same arguments, the errors of both, and their times.

    PYTHONPATH=python:.peers python python/examples/beside_mamba.py    .peers: see tools/fetch_peers

mamba_ssm needs a GPU. Without it, or without mamba_ssm, Baton's scan is only compared to itself in
fp64 on the CPU, which judges both otherwise.
"""

import sys
import time

import baton
import torch

try:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
except ImportError:
    mamba_chunk_scan_combined = None

ON_GPU = torch.cuda.is_available()
BATCH, LENGTH, HEADS, HEAD_DIM, GROUPS, STATE = (4, 2048, 64, 64, 8, 128) if ON_GPU else (
    2, 192, 8, 64, 2, 64)
CHUNK = 128  # mamba_ssm's; Baton chooses its own
# Rounding y to bf16 alone errs by 1.4e-3 in the mean; products of bf16 numbers add to it.
TOLERANCE = 5e-3


def make_inputs():
    """x, dt, A, B, C, D, dt_bias as mamba_ssm takes them: [batch, length, ...]."""
    def rand(*shape):
        return torch.randn(BATCH, LENGTH, *shape).bfloat16()
    return [rand(HEADS, HEAD_DIM), rand(HEADS), -1 - 15 * torch.rand(HEADS), rand(GROUPS, STATE),
            rand(GROUPS, STATE), torch.ones(HEADS), torch.rand(HEADS) - 4]


def baton_scan(x, dt, A, B, C, D, dt_bias):
    """Rows of a batch are sequences that are packed one after the other."""
    starts = torch.arange(0, (BATCH + 1) * LENGTH, LENGTH, dtype=torch.int32, device=x.device)
    x, dt, B, C = (tensor.flatten(0, 1) for tensor in (x, dt, B, C))
    y, _final_states = baton.ops.ssd(x, dt, A, B, C, starts, D, dt_bias)
    return y.unflatten(0, (BATCH, LENGTH))


def mamba_scan(x, dt, A, B, C, D, dt_bias):
    return mamba_chunk_scan_combined(x, dt, A, B, C, CHUNK, D=D, dt_bias=dt_bias, dt_softplus=True)


def run(scan, inputs, upstream):
    """y and the gradients of all inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = scan(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


def seconds(scan, inputs, upstream, repeats=10):
    """Of a forward and a backward pass."""
    def wait():
        if ON_GPU:
            torch.cuda.synchronize()
    for _ in range(2):  # The first compile kernels.
        run(scan, inputs, upstream)
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        run(scan, inputs, upstream)
    wait()
    return (time.perf_counter() - start) / repeats


def error(result, judged):
    """Mean error over the mean size of the values."""
    return ((result.cpu().double() - judged).abs().mean() / judged.abs().mean()).item()


def main():
    torch.manual_seed(0)
    inputs = make_inputs()
    upstream = torch.randn(BATCH, LENGTH, HEADS, HEAD_DIM).bfloat16()
    judged = run(baton_scan, [tensor.double() for tensor in inputs], upstream.double())
    device = "cuda" if ON_GPU else "cpu"
    inputs, upstream = [tensor.to(device) for tensor in inputs], upstream.to(device)

    scans = {"baton": baton_scan}
    if ON_GPU and mamba_chunk_scan_combined is not None:
        scans["mamba_ssm"] = mamba_scan
    results = {name: run(scan, inputs, upstream) for name, scan in scans.items()}
    names = ("y", "dx", "ddt", "dA", "dB", "dC", "dD", "ddt_bias")
    print("error against fp64  " + "  ".join(f"{name:>9}" for name in results))
    worst = 0.0
    for index, name in enumerate(names):
        errors = [error(result[index], judged[index]) for result in results.values()]
        worst = max(worst, errors[0])
        print(f"{name:18s}  " + "  ".join(f"{value:9.1e}" for value in errors))
    times = {name: seconds(scan, inputs, upstream) for name, scan in scans.items()}
    print("ms forward and back " + "  ".join(f"{1e3 * value:9.3f}" for value in times.values()))
    if "mamba_ssm" in times:
        print(f"baton is {times['mamba_ssm'] / times['baton']:.2f} times as fast")
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
