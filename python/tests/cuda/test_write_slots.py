# SPDX-License-Identifier: Apache-2.0
"""Writes to the slots of a cache on CUDA, which are exact."""

import pytest
import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def on(device, *tensors):
    return [each.to(device) for each in tensors]


def slots_of(*slots):
    return torch.tensor(slots, dtype=torch.int32)


def check(ops, judge, device, cache, slots, values):
    want = cache.clone()
    judge.write_slots_(want, slots, values)
    got, slots, values = on(device, cache.clone(), slots, values)
    ops.write_slots_(got, slots, values)
    assert torch.equal(got.cpu(), want)


def check_view(ops, device, storage, view, slots, values):
    """Writes to a view; what is not of it stays."""
    want = storage.clone()
    for slot, value in zip(slots.tolist(), values):
        if slot >= 0:
            view(want)[slot] = value.to(want.dtype)
    got = storage.clone().to(device)
    ops.write_slots_(view(got), slots.to(device), values.to(device))
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (2, 3), (4, 2050), (3, 8, 40)])
def test_shapes_and_dtypes(ops, judge, device, dtype, to, shape):
    torch.manual_seed(1)
    values = torch.randn(3, *shape, dtype=torch.float64).to(dtype)
    check(ops, judge, device, torch.zeros(5, *shape, dtype=to), slots_of(2, -1, 0), values)


@pytest.mark.parametrize("to", [torch.float32, torch.bfloat16])
def test_strides(ops, judge, device, to):
    torch.manual_seed(1)
    slots = slots_of(3, 1, -1)
    values = torch.randn(3, 6, 16)
    shape = (6, 16)
    for gap in (0, 1, 8):
        rows = torch.zeros(4, 96 + gap, dtype=to)
        check_view(ops, device, rows, lambda rows: rows[:, :96].unflatten(1, shape), slots, values)
    turned = torch.zeros(4, 16, 6, dtype=to)
    for given in (values, values[:, :, :1].expand(3, 6, 16)):
        check_view(ops, device, turned, lambda cache: cache.transpose(1, 2), slots, given)


def test_values_of_a_wider_row(ops, judge, device):
    torch.manual_seed(1)
    for before in (1, 8):
        values = torch.randn(3, 64)[:, before : before + 32]
        check(ops, judge, device, torch.zeros(4, 32), slots_of(0, 2, 1), values)


def test_nothing_to_write(ops, device):
    for cache, slots, values in (
        (torch.ones(2, 5), slots_of(), torch.empty(0, 5)),
        (torch.ones(2, 0), slots_of(1), torch.empty(1, 0)),
        (torch.ones(0, 5), slots_of(-1), torch.ones(1, 5)),
        (torch.ones(2, 5), slots_of(-1, -1), torch.zeros(2, 5)),
    ):
        got, slots, values = on(device, cache.clone(), slots, values)
        ops.write_slots_(got, slots, values)
        assert torch.equal(got.cpu(), cache)


def test_slots_out_of_range_are_left_alone(ops, device):
    cache, slots, values = on(device, torch.ones(2, 8), slots_of(2, -5), torch.zeros(2, 8))
    ops.write_slots_(cache, slots, values)
    assert torch.equal(cache.cpu(), torch.ones(2, 8))


def test_refuses_what_does_not_fit(ops, device):
    cache, slots, values = on(device, torch.ones(2, 8), slots_of(0), torch.zeros(1, 8))
    for arguments in (
        (cache, slots.long(), values),
        (cache, slots, values[:, :4]),
        (cache, slots, values.expand(2, 8)),
    ):
        with pytest.raises(RuntimeError):
            ops.write_slots_(*arguments)


@pytest.mark.parametrize("to", [torch.float32, torch.bfloat16])
def test_large(ops, judge, device, emulated, to):
    if emulated:
        pytest.skip("takes a GPU")
    values = torch.randn(40, 64, 64, 128)
    slots = torch.randperm(64, dtype=torch.int32)[:40]
    check(ops, judge, device, torch.zeros(64, 64, 64, 128, dtype=to), slots, values)
