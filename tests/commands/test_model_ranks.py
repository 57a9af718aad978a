# SPDX-License-Identifier: Apache-2.0
"""baton train on ranks that share a model, along tp and pp: the same numbers as on one rank."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from conftest import RECIPE, baton, refused
from test_ranks import QUIET, errors, launch, numbers, settings, train

# Sums in another order, over the updates of five steps, in proportion to what they make.
ROUNDING = {"fp32": 2e-5, "fp64": 1e-10}
# With this eps an update is in proportion to a gradient that is nearly zero, as its rounding is.
SMALL = ["train.tokens_per_step=384", "train.steps=5", "train.eval_interval=3", "train.eps=1e-5",
         "checkpoint.interval=0", "parallel.check_interval=1"]
# Sizes that share nothing with the ranks but where a rule wants it; B and C of one group and heads
# of keys go to several ranks, and so does a group of the norm.
ODD = ["model.pattern=M-*M-", "model.vocabulary=263", "model.mlp.hidden=61", "model.mlp.bias=true",
       "model.mamba.num_groups=1", "model.attention.num_kv_heads=1", "model.tied=true",
       "data.tokens_per_microbatch=97", "train.tokens_per_step=388"]


def mesh(dp=1, v=1, **axes):
    """Settings of a mesh; dp is what is left of the ranks."""
    axes["virtual_stages"] = v
    return [f"parallel.{axis}={count}" for axis, count in axes.items()]


def ranks_of(dp=1, v=1, tp=1, cp=1, pp=1):
    return dp * tp * cp * pp


def train_on(folder, recipe, *values, **axes):
    """Trains on a mesh; the run's folder."""
    run = folder / ("run" + "".join(f"-{axis}{count}" for axis, count in axes.items()))
    _, messages = train(ranks_of(**axes), recipe, *SMALL, *values, *mesh(**axes),
                        f"run.folder={run}")
    assert ("bubble" in messages) == (axes.get("pp", 1) > 1)
    return run


def tensors(run, kind="parameters"):
    """Every tensor of the newest checkpoint, put together from its pieces."""
    folder = max((run / "checkpoints").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = {}
    for name, record in manifest[kind].items():
        value = torch.full(record["shape"], float("nan"), dtype=torch.float64)
        for piece in record["pieces"]:
            with safe_open(folder / piece["file"], "pt") as file:
                place = tuple(slice(a, a + n) for a, n in zip(piece["start"], piece["shape"]))
                value[place] = file.get_tensor(piece["key"])
        whole[name] = value
    return whole


def expect_same_run(run, one, dtype="fp32"):
    """Losses, norms and held-out losses of all steps, and every parameter after them."""
    rounding = ROUNDING[dtype]
    found, wanted = numbers(run), numbers(one)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.keys() >= b.keys()  # a run that stopped has evaluated there
        assert all(abs(a[key] - b[key]) <= rounding * abs(b[key]) for key in b), (a, b)
    found, wanted = tensors(run), tensors(one)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        off = (found[name] - value).abs().max().item()
        assert off <= rounding * (1 + value.abs().max().item()), (name, off)


@pytest.fixture(scope="module")
def one_rank(corpus, tmp_path_factory):
    """Recipe, and run folders of one rank by the settings beside it."""
    folder = tmp_path_factory.mktemp("one_rank_model")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=corpus).replace(f"{corpus}/run", f"{folder}/run"))
    runs = {}

    def run_of(*values):
        if values not in runs:
            (folder / str(len(runs))).mkdir()
            runs[values] = train_on(folder / str(len(runs)), recipe, *values)
        return runs[values]

    run_of.recipe = recipe
    return run_of


def compare(one_rank, folder, *values, dtype="fp32", **axes):
    values = [*values, f"model.dtype={dtype}"]
    run = train_on(folder, one_rank.recipe, *values, **axes)
    expect_same_run(run, one_rank(*values), dtype)


@pytest.mark.parametrize("axes", [dict(tp=2), dict(pp=2)])
def test_two_ranks_share_a_model(one_rank, tmp_path, axes):
    compare(one_rank, tmp_path, *ODD, dtype="fp64", **axes)


PAIRS = [dict(tp=2, pp=2), dict(tp=2, cp=2), dict(tp=2, dp=2), dict(pp=2, cp=2), dict(pp=2, dp=2),
         dict(cp=2, dp=2), dict(tp=4), dict(pp=4), dict(pp=2, v=2), dict(pp=2, v=2, tp=2)]


@pytest.mark.long
@pytest.mark.parametrize("axes", PAIRS)
@pytest.mark.parametrize("values, dtype", [([], "fp32"), (ODD, "fp32"), (ODD, "fp64")])
def test_every_pair_of_axes(one_rank, tmp_path, axes, values, dtype):
    compare(one_rank, tmp_path, *values, dtype=dtype, **axes)


@pytest.mark.long
@pytest.mark.parametrize("share", [["parallel.attention=ring"], ["parallel.context=all_to_all"]])
@pytest.mark.parametrize("axes", [dict(tp=2, cp=2), dict(pp=2, cp=2)])
def test_other_ways_to_share_tokens(one_rank, tmp_path, axes, share):
    run = train_on(tmp_path, one_rank.recipe, "model.dtype=fp64", *share, **axes)
    expect_same_run(run, one_rank("model.dtype=fp64"), "fp64")


@pytest.mark.long
@pytest.mark.parametrize("axes", [dict(tp=2), dict(pp=2)])
def test_equal_bits_on_any_dp_ranks(one_rank, tmp_path, axes):
    same = ["train.deterministic_reduce=true", *ODD]
    runs = [train_on(tmp_path, one_rank.recipe, *same, dp=dp, **axes) for dp in (1, 2)]
    assert numbers(runs[0]) == numbers(runs[1])
    for kind in ("parameters", "optimizer_states"):
        first, second = (tensors(run, kind) for run in runs)
        assert all(torch.equal(first[name], second[name]) for name in first)


MESHES = [dict(), dict(dp=2), dict(cp=2), dict(tp=2), dict(pp=2), dict(pp=2, v=2), dict(dp=4),
          dict(tp=4), dict(pp=4), dict(tp=2, pp=2), dict(tp=2, cp=2), dict(tp=2, dp=2),
          dict(pp=2, cp=2), dict(pp=2, dp=2), dict(cp=2, dp=2)]


def go_on(folder, source, recipe, axes, steps, *values):
    """Copies a run and goes on with it on another mesh."""
    run = folder / "on"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(source, run)
    _, messages = train(ranks_of(**axes), recipe, *SMALL, *ODD, *values, *mesh(**axes),
                        f"train.steps={steps}", f"run.folder={run}", "train.schedule=constant")
    assert "resuming from" in messages
    return run


def check_resumes(one_rank, folder, sources, targets):
    recipe, constant = one_rank.recipe, "train.schedule=constant"
    straight = folder / "straight"
    train(1, recipe, *SMALL, *ODD, constant, "train.steps=5", f"run.folder={straight}")
    for axes in sources:
        run = folder / "from"
        shutil.rmtree(run, ignore_errors=True)
        train(ranks_of(**axes), recipe, *SMALL, *ODD, constant, *mesh(**axes), "train.steps=2",
              f"run.folder={run}")
        for other in targets:
            # A learning rate of nothing leaves parameters, so what was read is what is written.
            still = go_on(folder, run, recipe, other, 3, "train.lr=0", "train.min_lr=0")
            before, after = tensors(run), tensors(still)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before), (axes, other)
            further = go_on(folder, run, recipe, other, 5)
            expect_same_run(further, straight)


def test_a_run_goes_on_with_another_mesh(one_rank, tmp_path):
    check_resumes(one_rank, tmp_path, [dict(tp=2)], [dict(pp=2)])


@pytest.mark.long
@pytest.mark.parametrize("source", range(len(MESHES)))
def test_runs_go_on_with_other_meshes(one_rank, tmp_path, source):
    # All pairs, to the bit and with the optimizer's states: train_run_tensors_test.
    targets = [MESHES[(source + distance) % len(MESHES)] for distance in (1, 4, 9)]
    check_resumes(one_rank, tmp_path, [MESHES[source]], targets)


@pytest.mark.parametrize("axes", [dict(tp=2), pytest.param(dict(tp=2, pp=2), marks=pytest.mark.long)])
def test_a_run_starts_from_another_meshs_model(one_rank, tmp_path, axes):
    """The recipe says nothing of the model, whose pipes are those of another cut."""
    model = train_on(tmp_path, one_rank.recipe, *ODD, "train.steps=2", pp=2, v=2)
    recipe = tmp_path / "from.toml"
    text = one_rank.recipe.read_text()
    recipe.write_text(text.split("[model]")[0] + "[train]" + text.split("[train]")[1])
    values = [f"run.start_from={model}", "data.tokens_per_microbatch=97",
              "train.tokens_per_step=388"]
    runs = []
    for folder, shape in (("one", {}), ("several", axes)):
        (tmp_path / folder).mkdir()
        runs.append(train_on(tmp_path / folder, recipe, *values, **shape))
    expect_same_run(runs[1], runs[0])


def test_one_rank_uses_what_several_wrote(one_rank, tmp_path):
    run = train_on(tmp_path, one_rank.recipe, *ODD, tp=2, pp=2)
    text = baton("generate", run, "--prompt", "the baton", "--max-new-tokens", "5", "--temperature",
                 "0").stdout
    assert text == baton("generate", one_rank(*ODD), "--prompt", "the baton", "--max-new-tokens", "5",
                         "--temperature", "0").stdout
    held_out = str(one_rank.recipe.read_text().split('valid = "')[1].split('"')[0])
    found = json.loads(baton("eval", run, "--data", held_out, "--json").stdout)
    wanted = json.loads(baton("eval", one_rank(*ODD), "--data", held_out, "--json").stdout)
    assert abs(found["loss"] - wanted["loss"]) <= ROUNDING["fp32"] * wanted["loss"]


def test_a_stage_that_diverges_stops_all(one_rank, tmp_path):
    process = launch(2, one_rank.recipe, *SMALL, *mesh(pp=2), f"run.folder={tmp_path}/run",
                     "train.lr=1e30", "train.clip_norm=0", "train.warmup_steps=0")
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors(messages) and "step " in errors(messages)[0], messages


def world(ranks):
    return dict(QUIET, RANK="0", WORLD_SIZE=str(ranks), LOCAL_RANK="0")


@pytest.mark.parametrize("ranks, values, rule", [
    (4, ["parallel.tp=3"],
     "pp x cp x tp must divide the number of ranks: 1 x 1 x 3 vs 4; the nearest number of ranks "
     "that can be is 3"),
    (8, ["parallel.tp=8"],
     "model.mamba.num_heads must be a multiple of parallel.tp, and one of num_groups and tp divide "
     "the other: num_heads 4, num_groups 2, tp 8; the nearest tp that can be is 4"),
    (2, ["parallel.tp=2", "model.mamba.num_heads=9", "model.mamba.num_groups=3"],
     "num_heads 9, num_groups 3, tp 2; the nearest tp that can be is 1"),
    (2, ["parallel.tp=2", "model.attention.num_heads=3", "model.attention.num_kv_heads=3"],
     "model.attention.num_heads must be a multiple of parallel.tp, and one of num_kv_heads and tp "
     "divide the other: num_heads 3, num_kv_heads 3, tp 2; the nearest tp that can be is 1"),
    (4, ["parallel.tp=4", "model.mlp.hidden=3"],
     "parallel.tp must not exceed model.mlp.hidden: 4 vs 3; the nearest tp that can be is 3"),
    (4, ["parallel.tp=4", "model.vocabulary=3"],
     "parallel.tp must not exceed model.vocabulary: 4 vs 3; the nearest tp that can be is 3"),
    (4, ["parallel.cp=4", "parallel.context=all_to_all", "model.mamba.num_groups=4",
         "model.attention.num_heads=6"],
     "a rank of parallel.tp has heads 6, num_kv_heads 2, cp 4; the nearest cp that can be is 2"),
    (1, ["parallel.virtual_stages=2"],
     "parallel.virtual_stages must be 1 where parallel.pp is 1: 2"),
    (8, ["parallel.pp=8"],
     "parallel.pp x parallel.virtual_stages must not exceed the layers of model.pattern: 8 x 1 vs "
     "4; the nearest pp that can be is 4"),
    (2, ["parallel.pp=2", "parallel.virtual_stages=3"],
     "2 x 3 vs 4; the nearest virtual_stages that can be is 2"),
    (2, ["parallel.pp=2", "model.pattern=M|-|*|M"],
     "must be the segments of model.pattern: 2 x 1 vs 4; the nearest that can be is 2 x 2, or "
     "leave out the pipes"),
    (2, ["parallel.pp=2", "parallel.virtual_stages=2", "train.tokens_per_step=288"],
     "must be a multiple of parallel.pp: 3 vs 2; the nearest train.tokens_per_step that can be is "
     "192"),
    (4, [],
     "must be a multiple of the data-parallel ranks: 2 vs 4; the nearest train.tokens_per_step "
     "that can be is 384"),
    (1, ["train.deterministic_reduce=true", "train.tokens_per_step=288"],
     "train.deterministic_reduce wants powers of two: 3 microbatches a step; the nearest "
     "train.tokens_per_step that can be is 192"),
])
def test_meshes_that_cannot_be(recipe, ranks, values, rule):
    assert rule in refused("train", recipe, *settings(*values), env=world(ranks))
