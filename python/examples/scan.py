# SPDX-License-Identifier: Apache-2.0
"""The scan of Mamba-2 over packed sequences, called from Python and checked by a plain recurrence.

Run from the repository after `make build`:  PYTHONPATH=python python python/examples/scan.py
"""

import sys

import baton
import torch

HEADS, HEAD_DIM, GROUPS, STATE = 4, 8, 2, 16


def plain_scan(x, dt, a, b, c, starts):
    """h = exp(dt a) h + dt x b^T; y = h c, one token after the other, sequence by sequence."""
    group = torch.arange(HEADS) // (HEADS // GROUPS)
    outputs, finals = [], []
    for begin, end in zip(starts, starts[1:]):
        state = x.new_zeros(HEADS, HEAD_DIM, STATE)
        for t in range(begin, end):
            step = torch.nn.functional.softplus(dt[t])
            decay = torch.exp(step * a)[:, None, None]
            state = decay * state + (step[:, None] * x[t])[:, :, None] * b[t][group][:, None, :]
            outputs.append((state * c[t][group][:, None, :]).sum(-1))
        finals.append(state)
    return torch.stack(outputs), torch.stack(finals)


def main():
    torch.manual_seed(0)
    lengths = [70, 0, 1, 129]  # packed one after the other; an empty sequence is fine
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    tokens = int(starts[-1])
    double = dict(dtype=torch.float64)
    x = torch.randn(tokens, HEADS, HEAD_DIM, **double, requires_grad=True)
    dt = torch.randn(tokens, HEADS, **double, requires_grad=True)
    a = -torch.rand(HEADS, **double) - 0.5
    b = torch.randn(tokens, GROUPS, STATE, **double)
    c = torch.randn(tokens, GROUPS, STATE, **double)

    y, final_states = baton.ops.ssd(x, dt, a, b, c, starts)
    expected_y, expected_states = plain_scan(x, dt, a, b, c, starts.tolist())
    weight = torch.randn_like(y)
    gradient = torch.autograd.grad((y * weight).sum(), [x, dt])
    expected_gradient = torch.autograd.grad((expected_y * weight).sum(), [x, dt])

    pairs = {
        "outputs": (y, expected_y),
        "final states": (final_states, expected_states),
        "gradient of x": (gradient[0], expected_gradient[0]),
        "gradient of dt": (gradient[1], expected_gradient[1]),
    }
    worst = 0.0
    for name, (ours, plain) in pairs.items():
        difference = (ours - plain).abs().max().item()
        worst = max(worst, difference)
        print(f"{name:15s} {tuple(ours.shape)!s:16s} largest difference {difference:.1e}")
    return 0 if worst < 1e-10 else 1


if __name__ == "__main__":
    sys.exit(main())
