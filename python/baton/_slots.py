# SPDX-License-Identifier: Apache-2.0
"""State slots of the drop-ins."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _checks


def write(cache: Tensor, slots: Tensor | None, values: Tensor) -> None:
    """cache[slots[b]] = values[b] where slots[b] is not negative; without slots all of it."""
    if slots is None:
        cache.copy_(values)
    elif cache.dtype in _checks.COMPUTE_DTYPES:
        torch.ops.baton.write_slots_(cache, slots, values.to(cache.dtype))
    else:
        valid = slots >= 0
        cache[slots[valid].long()] = values[valid].to(cache.dtype)
