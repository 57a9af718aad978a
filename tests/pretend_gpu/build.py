#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds a program that takes the CPU for a GPU: the unchanged baton beside pretend_gpu.cpp.

    python3 tests/pretend_gpu/build.py [--build build] [--out build/pretend_gpu] [--kernels]

Wants a finished build. Prints the path of the program, for BATON_PROGRAM. Operators are those of the
CPU; with --kernels those of CUDA, on the emulator (tests/emulator), which is slow. Attention stays
the CPU's, since PyTorch's kernels are not emulated.
"""
import argparse
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "pretend_gpu"


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)


def compile_once(compiler, words, source, target):
    """Compiles unless the target is of this source and this command already."""
    stamp = target.with_suffix(".stamp")
    key = hashlib.sha256(source.read_bytes() + " ".join(words).encode()).hexdigest()
    if not target.exists() or not stamp.exists() or stamp.read_text() != key:
        run([compiler, *words, "-o", target, source])
        stamp.write_text(key)


def newer(source, target):
    return not target.exists() or source.stat().st_mtime > target.stat().st_mtime


def emulated_objects(build_folder, out):
    spec = importlib.util.spec_from_file_location("emulator", ROOT / "tests/emulator/build.py")
    emulator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulator)
    return emulator.compile_sources(build_folder, out, {"attention"}, own_names=False)[1]


def build(build_folder, out, kernels=False):
    build_folder, out = pathlib.Path(build_folder).resolve(), pathlib.Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    cache = (build_folder / "CMakeCache.txt").read_text()
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.MULTILINE)[1]
    commands = (build_folder / "compile_commands.json").read_text()
    torch = re.search(r"-isystem (\S*/torch)/include ", commands)[1]
    words = ["-std=c++20", "-O1", "-fPIC", "-c", "-w", "-isystem", f"{torch}/include",
             "-isystem", f"{torch}/include/torch/csrc/api/include"]
    compile_once(compiler, words, FOLDER / "pretend_gpu.cpp", out / "pretend_gpu.o")
    objects = emulated_objects(build_folder, out / "emulated") if kernels else []
    run([compiler, "-shared", "-Wl,--unresolved-symbols=ignore-all", "-o", out / "libbaton_cuda.so",
         out / "pretend_gpu.o", *objects])
    compile_once(compiler, ["-x", "c", "-fPIC", "-shared"], FOLDER / "driver.c",
                 out / "libcuda.so.1")
    for name in ("baton/libbaton.so", "baton/libbaton_ops.so", "apps/baton"):
        source, target = build_folder / name, out / pathlib.Path(name).name
        if newer(source, target):
            shutil.copy2(source, target)
    program = out / "baton_on_pretend_gpu"
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{out}:$LD_LIBRARY_PATH" exec "{out}/baton" "$@"\n')
    os.chmod(program, 0o755)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.environ.get("BATON_BUILD", str(ROOT / "build")))
    parser.add_argument("--out", default=str(ROOT / "build" / "pretend_gpu"))
    parser.add_argument("--kernels", action="store_true")
    arguments = parser.parse_args()
    print(build(arguments.build, arguments.out, arguments.kernels))


if __name__ == "__main__":
    main()
