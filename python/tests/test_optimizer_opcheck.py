# SPDX-License-Identifier: Apache-2.0
"""opcheck of adamw_ and sum_squares, and their agreement with torch."""

import baton
import pytest
import torch
from torch.library import opcheck


def adamw_arguments(dtype, with_master):
    working = torch.float64 if dtype == torch.float64 else torch.float32
    parameter = torch.randn(5, 7, dtype=working)
    moments = [0.1 * torch.randn(5, 7, dtype=working), torch.rand(5, 7, dtype=working)]
    master = parameter.clone() if with_master else None
    grad = torch.randn(5, 7).to(dtype)
    return [parameter.to(dtype), grad, *moments, master, 0.01, 0.9, 0.95, 1e-8, 0.1, 3, 0.5]


@pytest.mark.parametrize(
    ("dtype", "with_master"),
    [(torch.float64, False), (torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
)
def test_adamw_opcheck(dtype, with_master):
    opcheck(baton.ops.adamw_.default, adamw_arguments(dtype, with_master))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (3, 50)])
def test_sum_squares_opcheck(dtype, shape):
    opcheck(baton.ops.sum_squares.default, [torch.randn(shape).to(dtype)])
    opcheck(baton.ops.sum_squares.default, [torch.randn(shape).to(dtype).requires_grad_()])


def test_adamw_agrees_with_torch():
    weight = torch.randn(40, 33, dtype=torch.float64)
    twin = torch.nn.Parameter(weight.clone())
    judge = torch.optim.AdamW([twin], lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    moments = torch.zeros(2, 40, 33, dtype=torch.float64)
    for step in range(1, 6):
        twin.grad = torch.randn(40, 33, dtype=torch.float64)
        judge.step()
        baton.ops.adamw_(
            weight, twin.grad, moments[0], moments[1], None, 0.02, 0.9, 0.95, 1e-8, 0.1, step
        )
    # Two fp64 programs that order a few products differently.
    torch.testing.assert_close(weight, twin.detach(), rtol=1e-13, atol=1e-13)


def test_adamw_refuses_to_drop_a_gradient():
    arguments = adamw_arguments(torch.float32, False)
    arguments[0].requires_grad_()
    with pytest.raises(RuntimeError, match="no gradient"):
        baton.ops.adamw_(*arguments)
