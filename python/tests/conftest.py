# SPDX-License-Identifier: Apache-2.0
"""Makes the package importable from the source tree, and the tests repeatable."""

import pathlib
import sys

import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(1)
