#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""transformers' bf16 logits of a family's random models on a GPU, in both ways that it has there.

    tests/gpu/bf16_by_transformers.py FAMILY OUT

OUT receives `torch_<index>`, of its torch path, and where mamba_ssm is (.peers, or installed)
`mamba_ssm_<index>`, of the same with mamba_ssm's kernels for the scan: what a user of a GPU runs, and
what takes scores and states in bf16. Models that these kernels refuse are named. A process of its own,
since nothing else may find mamba_ssm in it.
"""
import argparse
import importlib
import inspect
import os
import pathlib
import sys

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "commands"))
from hf_models import NUM_MODELS, logits_of, make_model, random_tokens  # noqa: E402

NUM_TOKENS, SEED = 96, 1


def scan_by_mamba_ssm():
    """Its function under the arguments that transformers gives, or None where it is not."""
    # One configuration for each kernel, where hundreds would be compiled and timed.
    os.environ["MAMBA_DETERMINISTIC"] = "1"
    sys.path.append(str(ROOT / ".peers"))
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined as scan
    except ImportError as error:
        print(f"no mamba_ssm: {error}")
        return None
    known = frozenset(inspect.signature(scan).parameters)

    def called(*args, **kwargs):
        return scan(*args, **{key: value for key, value in kwargs.items() if key in known})

    return called


def logits_by(family, index, device):
    model = make_model(family, index)
    tokens = random_tokens(model, NUM_TOKENS, SEED)
    return logits_of(model.bfloat16().to(device), tokens).contiguous()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family")
    parser.add_argument("out")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    modeling = importlib.import_module(
        f"transformers.models.{arguments.family}.modeling_{arguments.family}")
    found = {}
    for index in range(NUM_MODELS):
        found[f"torch_{index}"] = logits_by(arguments.family, index, arguments.device)
    scan = scan_by_mamba_ssm()
    if scan is not None:
        modeling.mamba2_chunk_scan = scan
        for index in range(NUM_MODELS):
            try:
                found[f"mamba_ssm_{index}"] = logits_by(arguments.family, index, arguments.device)
            except Exception as error:  # Triton's are of many types
                reason = str(error).strip().rpartition("\n")[2]
                print(f"mamba_ssm refuses model {index}: {type(error).__name__}: {reason}")
    save_file(found, arguments.out)


if __name__ == "__main__":
    main()
