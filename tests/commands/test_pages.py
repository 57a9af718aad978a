# SPDX-License-Identifier: Apache-2.0
"""Generated pages are current, and shells complete the command line."""

import shutil
import subprocess

import pytest

from conftest import PROGRAM, ROOT, baton

KEYS = "run.folder", "train.lr", "model.mamba.num_heads", "checkpoint.keep"


def test_the_reference_is_current():
    page = baton("reference").stdout
    assert (ROOT / "docs" / "reference.md").read_text() == page
    for word in (*KEYS, "baton data build", "--max-new-tokens", "OMP_NUM_THREADS"):
        assert word in page


def test_the_annotated_recipe_is_current_and_a_recipe(tmp_path):
    text = baton("reference", "--recipe").stdout
    assert (ROOT / "recipes" / "annotated.toml").read_text() == text
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    result = baton("train", recipe, code=2)
    assert "run.folder must be given" in result.stderr


def test_help_lists_the_recipe_keys():
    text = baton("train", "--help").stdout
    assert all(key in text for key in KEYS)


BASH = """
source <({program} completion bash)
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ :; }}
_baton
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# compadd and _files exist inside of zsh's completion only; these print what they would offer.
ZSH = """
compdef() {{ :; }}
compadd() {{ print -l -- ${{@[(i)--]+1,-1}} "${{@:$(( ${{@[(i)--]}} + 1 ))}}"; }}
_files() {{ print files; }}
source <({program} completion zsh)
words=({words}) CURRENT=$#words
_baton
"""


def offered(shell, words):
    script = {"bash": BASH, "zsh": ZSH}[shell].format(program=PROGRAM, words=words)
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete(shell):
    assert shutil.which(shell), f"{shell} is not installed"
    assert {"train", "generate", "data", "completion"} <= offered(shell, "baton ''")
    assert "build" in offered(shell, "baton data ''")
    assert {"--overwrite", "--input"} <= offered(shell, "baton data build --")
    assert {"never", "auto", "must"} <= offered(shell, "baton train --resume ''")
    assert {key + "=" for key in KEYS} <= offered(shell, "baton train x.toml --set ''")


def test_bash_offers_files_and_filters():
    assert "README.md" in offered("bash", "baton train READ")
    assert offered("bash", "baton gen") == {"generate"}
