# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel, as pip asks for it (PEP 517), from the package and a finished build.

The build is ../build, or ../$BATON_BUILD. Its libraries link to no Python, so one wheel serves all
versions of it; they hold the layouts of one torch's classes, so a wheel is for that torch alone.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import subprocess
import tempfile
import zipfile
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
NAME = "baton_kernels"
TAG = "py3-none-linux_x86_64"
MOST_BYTES = 20_000_000
# What the wheel holds that is not Baton's: the library's file to the Debian package it came from.
BUNDLED = {
    "libhwy.so": "libhwy1",
    "libonig.so": "libonig5",
    "libsentencepiece.so": "libsentencepiece0",
    "libutf8proc.so": "libutf8proc2",
    "libz.so": "zlib1g",
    "libzstd.so": "libzstd1",
}


class BuildError(SystemExit):
    """One line for whoever called pip."""

    def __init__(self, message: str) -> None:
        super().__init__(f"error: {message}")


class Build(NamedTuple):
    """A finished build as a wheel holds it."""

    files: dict[str, bytes]  # the libraries, and a module that says what they were made for
    baton: str  # its version
    torch: str  # 2.11, of the torch that it was made for

    @property
    def version(self) -> str:
        return f"{self.baton}+torch{self.torch}"


def _finished_build() -> Build:
    folder = HERE.parent / os.environ.get("BATON_BUILD", "build")
    if not (folder / "baton" / "libbaton.so").is_file():
        raise BuildError(f"{folder} holds no finished build: run `make build` first")
    with tempfile.TemporaryDirectory() as staged:
        command = ["cmake", "--install", str(folder), "--component", "wheel", "--prefix", staged]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)}: {done.stderr.strip()}")
        files = {path.name: path.read_bytes() for path in sorted(pathlib.Path(staged).iterdir())}
    made: dict[str, str] = {}
    exec(files["_build.py"], made)
    return Build(files, made["BATON"], ".".join(made["TORCH"].split("+")[0].split(".")[:2]))


def _metadata(build: Build) -> str:
    return f"""Metadata-Version: 2.1
Name: {NAME.replace("_", "-")}
Version: {build.version}
Summary: Kernels of hybrid Mamba-2 models for PyTorch, on CPU and CUDA
License: Apache-2.0
Requires-Python: >=3.10
Requires-Dist: torch=={build.torch}.*
Provides-Extra: transformers
Requires-Dist: transformers>=5.17; extra == "transformers"
Description-Content-Type: text/markdown

{(HERE.parent / "docs" / "python.md").read_text()}"""


def _wheel_file() -> str:
    return f"Wheel-Version: 1.0\nGenerator: wheel_backend\nRoot-Is-Purelib: false\nTag: {TAG}\n"


def _licence(library: str) -> bytes | None:
    for beginning, package in BUNDLED.items():
        path = pathlib.Path("/usr/share/doc") / package / "copyright"
        if library.startswith(beginning) and path.is_file():
            return path.read_bytes()
    return None


def _contents(build: Build) -> dict[str, bytes]:
    """The wheel's files by their names in it, but for its RECORD."""
    info = f"{NAME}-{build.version}.dist-info"
    files = {
        f"baton/{path.name}": path.read_bytes()
        for path in sorted((HERE / "baton").iterdir())
        if path.suffix in (".py", ".typed")
    }
    for name, data in build.files.items():
        files[f"baton/{name}"] = data
        licence = _licence(name)
        if licence is not None:
            files[f"{info}/licenses/{name}.txt"] = licence
    files[f"{info}/METADATA"] = _metadata(build).encode()
    files[f"{info}/WHEEL"] = _wheel_file().encode()
    return files


def _record(files: dict[str, bytes], name: str) -> bytes:
    rows = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}")
    return "\n".join([*rows, f"{name},,", ""]).encode()


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Writes the wheel into a folder and returns its name. The same build gives the same bytes."""
    build = _finished_build()
    files = _contents(build)
    name = f"{NAME}-{build.version}-{TAG}.whl"
    record = f"{NAME}-{build.version}.dist-info/RECORD"
    files[record] = _record(files, record)
    path = pathlib.Path(wheel_directory) / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for inside, data in files.items():
            entry = zipfile.ZipInfo(inside, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if ".so" in inside else 0o644) << 16
            wheel.writestr(entry, data)
    if path.stat().st_size > MOST_BYTES:
        raise BuildError(f"{name} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    return name


def build_sdist(sdist_directory, config_settings=None) -> str:
    raise BuildError("there is no source distribution: the wheel is made of a build of the tree")
