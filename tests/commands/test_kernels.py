# SPDX-License-Identifier: Apache-2.0
"""baton kernels: the cache of compiled kernels, filled with no GPU present."""

import json
import os
import subprocess

import pytest
from conftest import PROGRAM, RECIPE, baton, refused


@pytest.fixture
def cache(tmp_path):
    """Environment with a cache of its own."""
    return dict(os.environ, BATON_KERNEL_CACHE=str(tmp_path / "kernels"))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def build(recipe, cache, *options):
    """Of one recipe, or with None every kernel."""
    named = [] if recipe is None else [recipe]
    command = [PROGRAM, "kernels", "build", *named, "--json", *options]
    result = subprocess.run(command, capture_output=True, text=True, env=cache, timeout=300)
    if result.returncode == 1 and "NVRTC" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["kernels"]


def listed(cache):
    return json.loads(baton("kernels", "list", "--json", env=cache).stdout)["kernels"]


def test_build_list_and_clear(recipe, cache):
    assert listed(cache) == []
    built = build(recipe, cache, "--arch", "sm_80,sm_90a", "--set", "model.dtype=bf16")
    assert {kernel["arch"] for kernel in built} == {"sm_80", "sm_90a"}
    assert all(kernel["registers"] > 0 and kernel["spill_bytes"] == 0 for kernel in built)
    names = {kernel["name"] for kernel in built}
    assert not any("double" in name for name in names)
    found = listed(cache)
    assert {(k["name"], k["arch"]) for k in found} == {(k["name"], k["arch"]) for k in built}
    # A second time nothing is compiled: each reports the time of the first.
    again = build(recipe, cache, "--arch", "sm_80,sm_90a", "--set", "model.dtype=bf16")
    assert again == built
    assert f"{len(built)} kernels" in baton("kernels", "list", env=cache).stdout
    assert f"removed {len(built)} kernels" in baton("kernels", "clear", env=cache).stdout
    assert listed(cache) == []


@pytest.mark.long
def test_build_without_a_recipe_takes_every_kernel(recipe, cache):
    model = {kernel["name"] for kernel in build(recipe, cache, "--arch", "sm_90a")}
    every = {kernel["name"] for kernel in build(None, cache, "--arch", "sm_90a")}
    assert model < every
    assert {kernel["name"] for kernel in listed(cache)} == every
    ampere = {kernel["name"] for kernel in build(None, cache, "--arch", "sm_80")}
    assert {name for name in every - ampere if "hopper" not in name} == set()
    assert any("hopper" in name for name in every) and not any("hopper" in name for name in ampere)


def test_verify_removes_what_is_damaged(recipe, cache, tmp_path):
    built = build(recipe, cache, "--arch", "sm_80")
    assert f"{len(built)} kernels, all whole" in baton("kernels", "verify", env=cache).stdout
    entry = sorted((tmp_path / "kernels" / "sm_80").iterdir())[0]
    entry.write_bytes(entry.read_bytes()[:-1])
    result = baton("kernels", "verify", env=cache, code=1)
    assert str(entry) in result.stdout
    assert "1 damaged kernels were removed" in result.stderr
    assert len(listed(cache)) == len(built) - 1
    assert len(build(recipe, cache, "--arch", "sm_80")) == len(built)
    assert len(listed(cache)) == len(built)


def test_bad_use_gets_one_line(recipe, cache):
    assert "sm_1" in refused("kernels", "build", recipe, "--arch", "sm_1", env=cache)
    assert '"../x"' in refused("kernels", "build", recipe, "--arch", "../x", env=cache)
    assert "model" in refused("kernels", "build", "--arch", "sm_80", "--set", "a.b=1", env=cache)
    nowhere = {
        name: value
        for name, value in os.environ.items()
        if name not in ("BATON_KERNEL_CACHE", "XDG_CACHE_HOME", "HOME")
    }
    assert "BATON_KERNEL_CACHE" in refused("kernels", "list", env=nowhere)
