# SPDX-License-Identifier: Apache-2.0
"""Baton's functions under the names of the packages that they stand in for."""

import importlib
import importlib.util
import sys

import baton
import pytest


@pytest.fixture(autouse=True)
def removed():
    baton.stand_in.remove()
    yield
    baton.stand_in.remove()


PLACES = {
    "mamba_ssm.ops.triton.ssd_combined": "mamba_chunk_scan_combined",
    "mamba_ssm.ops.triton.selective_state_update": "selective_state_update",
    "mamba_ssm.ops.triton.layernorm_gated": "rmsnorm_fn",
    "causal_conv1d": "causal_conv1d_update",
    "causal_conv1d.causal_conv1d_interface": "causal_conv1d_fn",
    "causal_conv1d.causal_conv1d_varlen": "causal_conv1d_varlen_states",
}


@pytest.mark.parametrize("module", PLACES)
def test_modules_hold_batons_functions(module):
    assert importlib.util.find_spec(module.partition(".")[0]) is None
    baton.stand_in.install()
    baton.stand_in.install()
    assert importlib.util.find_spec("mamba_ssm") is not None
    assert getattr(importlib.import_module(module), PLACES[module]) is getattr(baton, PLACES[module])


def test_remove_takes_all_of_them_back():
    baton.stand_in.install()
    baton.stand_in.remove()
    assert not [name for name in sys.modules if name.startswith(("mamba_ssm", "causal_conv1d"))]


def test_the_packages_themselves_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mamba_ssm.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="mamba_ssm itself is installed"):
        baton.stand_in.install()
    assert "causal_conv1d" not in sys.modules
