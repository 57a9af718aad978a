# SPDX-License-Identifier: Apache-2.0
"""The drop-ins are tested on the CPU, and on a GPU where there is one."""

import pytest
import torch


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request):
    return request.param
