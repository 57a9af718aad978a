#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the emulated CUDA operators: the host code of baton/ops/cuda against launches on the CPU.

    python3 tests/emulator/build.py [--build build] [--out build/emulated]

Wants a finished build of libbaton_ops.so, whose compile commands it borrows. Prints the library's
path: loaded after libbaton_ops.so it registers baton_emulated::name for every CUDA operator.
Sources of baton/ops that the finished build does not know are compiled into it too.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "tests" / "emulator"
ONLY_CUDA = {"launch", "library"}  # what the emulator puts in the place of


def digest(path):
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def borrowed_flags(build, commands):
    """Compiler, and its flags but for those that name this output, source, and the tree."""
    for entry in commands:
        if entry["file"].endswith("baton/ops/cuda/rms_norm.cpp"):
            words = shlex.split(entry["command"])
            break
    else:
        sys.exit(f"error: {build}/compile_commands.json does not know baton/ops/cuda/rms_norm.cpp")
    tree = pathlib.Path(entry["file"]).parents[3]
    flags, skip = [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word in ("-o", "-c"):
            skip = True
        elif word not in (f"-I{tree}", "-fpch-preprocess"):
            flags.append(word)
    return words[0], flags


def device_command(compiler, flags):
    includes = [w for i, w in enumerate(flags)
                if w == "-isystem" or (i and flags[i - 1] == "-isystem")]
    return " ".join(
        [compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-w", "-ffp-contract=off",
         "-fno-strict-aliasing", f"-I{EMULATOR / 'include'}", f"-I{EMULATOR.parent}", f"-I{ROOT}",
         *includes])


def compile_sources(build_folder, out, leave_out=frozenset(), own_names=True):
    """The compiler and the objects: with `own_names` of the operators baton_emulated::name, else of
    those of CUDA themselves (tests/pretend_gpu)."""
    build_folder, out = pathlib.Path(build_folder).resolve(), pathlib.Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    commands = json.loads((build_folder / "compile_commands.json").read_text())
    compiler, flags = borrowed_flags(build_folder, commands)
    command = [compiler, *flags, f"-I{EMULATOR / 'include'}", f"-I{EMULATOR.parent}", f"-I{ROOT}",
               "-Wno-unused-variable", *(["-include", "emulator/registration.h"] * own_names),
               f'-DEMULATOR_ROOT="{ROOT}"', f'-DEMULATOR_FOLDER="{EMULATOR}"',
               f'-DEMULATOR_CACHE="{out / "kernels"}"',
               f'-DEMULATOR_COMMAND="{device_command(compiler, flags)}"']
    tree = pathlib.Path(commands[0]["directory"]).parent
    known = {pathlib.Path(entry["file"]) for entry in commands}
    sources = []  # new schemas come first, since the emulated operators copy them when loaded
    for folder in ("baton/ops", "baton/ops/cpu"):
        sources += [source for source in sorted((ROOT / folder).glob("*.cpp"))
                    if not source.stem.endswith(("_test", "_bench"))
                    and tree / source.relative_to(ROOT) not in known]
    sources += [source for source in sorted((ROOT / "baton/ops/cuda").glob("*.cpp"))
                if source.stem not in ONLY_CUDA | leave_out]
    sources.append(EMULATOR / "compile.cpp")

    def compile_one(source):
        """The object of a source; compiled again where it or what it includes has changed."""
        words = command
        if own_names and ROOT / "baton/ops/cuda" not in source.parents:  # registers as it stands
            at = command.index("-include")
            words = command[:at] + command[at + 2:]
        words = [*words, "-c", source]
        record = out / f"{source.relative_to(ROOT).as_posix().replace('/', '.')}.json"
        if record.exists():
            known_inputs = json.loads(record.read_text())
            if known_inputs["words"] == list(map(str, words)) and all(
                    digest(path) == value for path, value in known_inputs["files"].items()):
                return pathlib.Path(known_inputs["object"])
        own = out / f"{record.name}.{os.getpid()}"
        done = subprocess.run([*words, "-MMD", "-MF", own.with_suffix(".d"), "-o", own],
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{source}:\n{done.stderr}")
        listed = own.with_suffix(".d").read_text().replace("\\\n", " ").split()[1:]
        files = {path: digest(path) for path in listed}
        target = out / f"{source.stem}.{digest(own)[:16]}.o"
        own.rename(target)
        own.with_suffix(".d").unlink()
        own.write_text(json.dumps(
            {"words": list(map(str, words)), "files": files, "object": str(target)}))
        own.rename(record)
        return target

    with ThreadPoolExecutor(2) as pool:
        return compiler, list(pool.map(compile_one, sources))


def build(build_folder, out):
    build_folder, out = pathlib.Path(build_folder).resolve(), pathlib.Path(out).resolve()
    compiler, objects = compile_sources(build_folder, out)
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    library = out / f"libbaton_emulated.{key}.so"
    if not library.exists():
        libraries = build_folder / "baton"
        own = library.with_suffix(".tmp")
        done = subprocess.run(
            [compiler, "-shared", "-o", own, *objects, f"-L{libraries}", "-lbaton_ops",
             f"-Wl,-rpath,{libraries}", "-Wl,--unresolved-symbols=ignore-all"],
            capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        own.rename(library)
    return library


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--out", default=str(ROOT / "build" / "emulated"))
    arguments = parser.parse_args()
    print(build(arguments.build, arguments.out))


if __name__ == "__main__":
    main()
