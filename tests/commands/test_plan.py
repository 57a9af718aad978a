# SPDX-License-Identifier: Apache-2.0
"""baton plan: what a step takes on many GPUs, predicted with none there."""

import json

import pytest
from conftest import RECIPE, ROOT, baton, refused

LARGE = ROOT / "recipes" / "hybrid_2b.toml"


@pytest.fixture
def recipe(tmp_path):
    """A small recipe whose data does not exist: a plan reads none."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def plan(*arguments):
    return json.loads(baton("plan", *arguments, "--json").stdout)


def test_a_plan_for_people(recipe):
    text = baton("plan", recipe, "--gpus", 2).stdout
    for word in ("prediction", "on 2 h100", "weights", "optimizer", "matrix products", "dp x cp",
                 "NVLink", "tokens/s"):
        assert word in text


RECIPES = {"hybrid_28m": 29.2e6, "hybrid_448m": 448e6, "hybrid_2b": 2.04e9, "hybrid_8b": 8.7e9}


def test_every_recipe_of_a_hybrid_has_a_size():
    assert RECIPES.keys() == {path.stem for path in (ROOT / "recipes").glob("hybrid_*.toml")}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_parameters_that_they_name(name):
    found = plan(ROOT / "recipes" / f"{name}.toml", "--gpus", 8)
    assert found["parameters"] == pytest.approx(RECIPES[name], rel=0.01)
    assert found["best"]["fits"]


def test_numbers_add_up():
    found = plan(LARGE, "--gpus", 8)
    best = found["best"]
    assert found["gpus"] == 8 and found["dtype"] == "bf16" and best["fits"]
    assert found["parameters"] == pytest.approx(2.04e9, rel=0.01)
    memory = dict(best["memory_bytes"])
    assert sum(memory.values()) == pytest.approx(2 * memory["all"])
    assert sum(best["seconds"].values()) == pytest.approx(best["step_seconds"])
    assert best["tokens_per_second"] == pytest.approx(
        found["tokens_per_step"] / best["step_seconds"])
    times = [mesh["step_seconds"] for mesh in found["meshes"]]
    assert times == sorted(times) and times[0] == best["step_seconds"]
    assert len(times) == 5 and all(mesh["slower_by"] for mesh in found["meshes"][1:])


def test_a_mesh_that_is_asked_for():
    best = plan(LARGE, "--gpus", 16, "--pp", 2, "--dp", 2, "--cp", 2, "--tp", 2,
                "--context", "baton", "--attention", "ring", "--virtual-stages", 1)["best"]
    assert best["mesh"] == {"pp": 2, "dp": 2, "cp": 2, "tp": 2, "virtual_stages": 1,
                            "context": "baton", "attention": "ring"}
    through = {traffic["axis"]: traffic["through"] for traffic in best["traffic"]}
    assert through == {"tp": "nvlink", "cp": "nvlink", "dp x cp": "nvlink", "pp": "network"}


def test_the_mesh_of_the_recipe():
    options = ("--gpus", 8, "--recipe-mesh", "--set", "parallel.cp=2", "--set", "parallel.tp=2",
               "--set", "parallel.context=all_to_all")
    found = plan(LARGE, *options)
    assert found["best"]["mesh"] == {"pp": 1, "dp": 2, "cp": 2, "tp": 2, "virtual_stages": 1,
                                     "context": "all_to_all"}
    assert found["fitting"] + found["too_large"] + len(found["refused"]) == 1
    # An option counts more.
    assert plan(LARGE, *options, "--cp", 4)["best"]["mesh"]["dp"] == 1


def test_several_numbers_of_gpus():
    found = plan(LARGE, "--gpus", "8,16")
    assert [each["gpus"] for each in found] == [8, 16]
    assert found[1]["best"]["tokens_per_second"] > found[0]["best"]["tokens_per_second"]
    lines = baton("plan", LARGE, "--gpus", "8,16").stdout.splitlines()
    assert len(lines) == 4 and lines[2].split()[0] == "8" and lines[3].split()[0] == "16"


def test_what_does_not_fit_is_said():
    options = "--gpus", 1, "--set", "data.tokens_per_microbatch=65536"
    text = baton("plan", LARGE, *options).stdout
    assert "does not fit" in text
    found = plan(LARGE, *options)
    assert not found["best"]["fits"] and found["too_large"] == 1 and found["meshes"] == []


def test_refused_meshes_have_reasons():
    found = plan(LARGE, "--gpus", 64)
    reasons = [each["reason"] for each in found["refused"]]
    assert any("tp 32 cannot share model.attention.num_heads (16)" in each for each in reasons)
    assert any(each.startswith("pp 64") or "pipeline" in each for each in reasons)


def test_wrong_numbers_are_refused(recipe):
    assert "--gpus" in refused("plan", recipe)
    assert "--gpus" in refused("plan", recipe, "--gpus", 0)
    assert "--gpus" in refused("plan", recipe, "--gpus", "eight")
    assert "no mesh of 8 GPUs has the axes asked for, cp 3: pp, dp, cp and tp must multiply" in (
        refused("plan", recipe, "--gpus", 8, "--cp", 3))
    assert "virtual stages want pp above 1: virtual stages 2, pp 1" in refused(
        "plan", recipe, "--gpus", 1, "--virtual-stages", 2)
    line = refused("plan", recipe, "--gpus", 7, "--cp", 1)
    assert "no mesh of 7 GPUs runs this recipe" in line
    assert "dp 4 does not divide the microbatches of a step (2)" in refused(
        "plan", recipe, "--gpus", 4, "--dp", 4)
    assert "--document-tokens" in refused("plan", recipe, "--gpus", 1, "--document-tokens", 97)


def test_an_unknown_gpu_is_answered_with_the_nearest(recipe):
    line = refused("plan", recipe, "--gpus", 1, "--gpu", "h10")
    assert "unknown GPU 'h10', did you mean 'h100'?" in line and "h200" in line


def test_wrong_recipes_are_refused(recipe, tmp_path):
    assert "cannot open" in refused("plan", tmp_path / "absent.toml", "--gpus", 1)
    assert "did you mean" in refused("plan", recipe, "--gpus", 1, "--set", "train.stepz=4")
    assert "cannot be built yet" in refused(
        "plan", recipe, "--gpus", 1, "--set", "model.pattern=ME")
    assert "model.mamba.num_heads must be a multiple of num_groups" in refused(
        "plan", recipe, "--gpus", 1, "--set", "model.mamba.num_groups=3")
