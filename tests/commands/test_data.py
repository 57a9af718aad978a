# SPDX-License-Identifier: Apache-2.0
"""baton data: every kind of input, what is wrong with it, kills, full disks, large sets."""

import gzip
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import PROGRAM, WORDS, baton, losses, refused

QUIET = dict(os.environ, BATON_LOG="error", BATON_PROGRESS="off")
END = 256  # the byte tokenizer's end of a document
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7,
         "uint16": 8}


def read_index(prefix):
    """The dtype, lengths, offsets and boundaries of an .idx file, by the format's description."""
    content = pathlib.Path(f"{prefix}.idx").read_bytes()
    assert content[:9] == b"MMIDIDX\0\0"
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", content, 9)
    assert version == 1
    dtype = next(name for name, number in CODES.items() if number == code)
    lengths = np.frombuffer(content, "<i4", sequences, 34)
    offsets = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences)
    documents = np.frombuffer(content, "<i8", boundaries, 34 + 12 * sequences)
    assert len(content) == 34 + 12 * sequences + 8 * boundaries
    return dtype, lengths, offsets, documents


def read_documents(prefix):
    """The token ids of each document."""
    dtype, lengths, offsets, boundaries = read_index(prefix)
    tokens = np.fromfile(f"{prefix}.bin", dtype)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    assert (offsets == starts[:-1] * tokens.itemsize).all() and starts[-1] == len(tokens)
    return [tokens[starts[a] : starts[b]].tolist() for a, b in zip(boundaries, boundaries[1:])]


def write_dataset(prefix, documents, dtype, modes=False):
    """Documents are lists of sequences of ids."""
    sequences = [sequence for document in documents for sequence in document]
    np.concatenate([np.array(s, dtype) for s in sequences]).tofile(f"{prefix}.bin")
    lengths = np.array([len(s) for s in sequences], "<i4")
    offsets = (np.cumsum(lengths, dtype="<i8") - lengths) * np.dtype(dtype).itemsize
    boundaries = np.cumsum([0] + [len(d) for d in documents], dtype="<i8")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES[dtype], len(lengths), len(boundaries))
    tail = bytes(len(lengths)) if modes else b""
    pathlib.Path(f"{prefix}.idx").write_bytes(
        head + lengths.tobytes() + offsets.astype("<i8").tobytes() + boundaries.tobytes() + tail)


def inspect(prefix, *options):
    return json.loads(baton("data", "inspect", prefix, "--json", *options).stdout)


def build(source, output, *options, **other):
    return baton("data", "build", "--input", source, "--output", output, *options, **other)


def zstd(content, *options):
    return subprocess.run(["zstd", "-cq", *options], input=content, capture_output=True,
                          check=True).stdout


@pytest.fixture(scope="module")
def lines():
    """JSON lines of some megabytes, so that several batches are under way."""
    draw = random.Random(3)
    return "".join(
        json.dumps({"text": " ".join(draw.choices(WORDS, k=draw.randint(1, 90)))}) + "\n"
        for _ in range(20000)).encode()


@pytest.fixture(scope="module")
def plain(lines, tmp_path_factory):
    """The files that the lines must become."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.jsonl").write_bytes(lines)
    build(folder / "a.jsonl", folder / "d")
    expected = [list(json.loads(line)["text"].encode()) + [END] for line in lines.splitlines()]
    assert read_documents(folder / "d") == expected
    return folder / "d"


def expect_same(prefix, other):
    for end in ".bin", ".idx":
        assert pathlib.Path(f"{prefix}{end}").read_bytes() == pathlib.Path(f"{other}{end}").read_bytes()


def compressed(lines):
    middle = len(lines) // 3  # inside a line
    return {
        "one.jsonl.gz": gzip.compress(lines),
        "members.jsonl.gz": gzip.compress(lines[:middle]) + gzip.compress(b"")
        + gzip.compress(lines[middle:]) + bytes(512),
        "one.jsonl.zst": zstd(lines, "--check"),
        "frames.jsonl.zst": zstd(lines[:middle]) + zstd(lines[middle:], "-19", "--long=27"),
        "name_without_suffix.jsonl": gzip.compress(lines),
    }


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_compressed_files_and_threads_change_nothing(lines, plain, tmp_path, threads):
    for name, content in compressed(lines).items():
        (tmp_path / name).write_bytes(content)
        build(tmp_path / name, tmp_path / "d", "--threads", threads, "--overwrite")
        expect_same(tmp_path / "d", plain)
    result = baton("data", "build", "--format", "jsonl", "--input", "/dev/stdin", "--threads",
                   threads, "--output", tmp_path / "piped", stdin=open(tmp_path / "one.jsonl.gz"))
    expect_same(tmp_path / "piped", plain)
    tokens = inspect(plain)["tokens"]
    assert f"20000 documents, {tokens} tokens" in result.stdout


@pytest.mark.parametrize("name", ["one.jsonl.gz", "members.jsonl.gz", "one.jsonl.zst"])
def test_damaged_files_are_named_and_leave_nothing(lines, tmp_path, name):
    whole = compressed(lines)[name]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x40
    for content in whole[:-700], whole[: len(whole) // 2], bytes(flipped), whole + b"more":
        (tmp_path / name).write_bytes(content)
        line = refused("data", "build", "--input", tmp_path / name, "--output", tmp_path / "d",
                       env=QUIET)
        assert name in line and ("truncated" in line or "damaged" in line), line
        assert os.listdir(tmp_path) == [name]
    (tmp_path / name).write_bytes(lines)
    assert "does not begin as" in refused(
        "data", "build", "--input", tmp_path / name, "--output", tmp_path / "d")


def test_bad_lines_are_named_and_skipped_or_fatal(tmp_path):
    bad = {2: '{"text": "cut', 3: '[1, 2]', 5: '{"text": 7}', 6: '{"other": "x"}',
           8: '{"text": "\\ud800"}', 9: '{"text": "x"} y'}
    source = tmp_path / "lines.jsonl.gz"
    content = "\n".join(bad.get(i, json.dumps({"text": f"line {i}"})) for i in range(1, 11))
    source.write_bytes(gzip.compress(content.encode()))
    line = refused("data", "build", "--input", source, "--output", tmp_path / "d")
    assert f"{source}:2: not valid JSON" in line
    for threads in 1, 3:
        result = build(source, tmp_path / "d", "--bad-lines", "skip", "--overwrite", "--threads",
                       threads)
        for number in bad:
            assert f"{source}:{number}: " in result.stderr
        assert "passed over 6 bad lines" in result.stderr
        texts = [bytes(document[:-1]).decode() for document in read_documents(tmp_path / "d")]
        assert texts == [f"line {i}" for i in range(1, 11) if i not in bad]
    source.write_bytes(gzip.compress(b"no\nrecord\n"))
    assert "no documents" in refused("data", "build", "--input", source, "--output",
                                     tmp_path / "e", "--bad-lines", "skip", env=QUIET)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
def test_integer_types_and_parts_of_documents(tmp_path, dtype):
    (tmp_path / "a.txt").write_bytes(b"abcdefg\n\nhi\n")
    options = ["--split-documents", "blank-line", "--dtype", dtype, "--max-sequence", 3]
    if dtype in ("uint8", "int8"):  # no room for the end of a document
        line = refused("data", "build", "--input", tmp_path / "a.txt", "--output", tmp_path / "d",
                       *options, env=QUIET)
        assert f"256, which does not fit {dtype}" in line
    else:
        build(tmp_path / "a.txt", tmp_path / "d", *options)
        stored, lengths, _, boundaries = read_index(tmp_path / "d")
        assert stored == dtype
        assert lengths.tolist() == [3, 3, 3, 3, 1] and boundaries.tolist() == [0, 3, 5]
        assert read_documents(tmp_path / "d") == [[*b"abcdefg\n", END], [*b"hi\n", END]]


def random_documents(dtype, draw):
    top = min(np.iinfo(dtype).max, 60000)
    return [[[draw.randint(0, top) for _ in range(draw.randint(0, 9))]
             for _ in range(draw.randint(1, 4))] for _ in range(20)] + [[[1]]]


@pytest.mark.parametrize("dtype", CODES)
def test_sets_of_other_writers(tmp_path, dtype):
    prefix = tmp_path / "other"
    if dtype.startswith("float"):
        write_dataset(prefix, [[[0.5, 1.5]]], dtype)
        assert f"holds {dtype} values, which are not token ids" in refused("data", "inspect", prefix)
        return
    documents = random_documents(dtype, random.Random(dtype))
    write_dataset(prefix, documents, dtype)
    joined = [sum(document, []) for document in documents]
    result = inspect(prefix, "--documents", 100, "--tokens", 100)
    assert result["dtype"] == dtype
    assert [entry["ids"] for entry in result["first_documents"]] == joined
    lengths = sorted(map(len, joined))
    assert result["documents"] == 21 and result["tokens"] == sum(lengths)
    assert result["sequences"] == sum(map(len, documents))
    summary = result["document_lengths"]
    assert (summary["shortest"], summary["longest"]) == (lengths[0], lengths[-1])
    assert summary["median"] == lengths[10]
    assert sum(bucket["count"] for bucket in summary["histogram"]) == 21
    write_dataset(prefix, documents, dtype, modes=True)
    assert "has a mode per sequence (multimodal data)" in refused("data", "inspect", prefix)


MEGATRON = os.environ.get("MEGATRON_LM", "")
READER = """
import sys, types
# The format's files alone are wanted: packages without what their __init__ imports.
for name in "megatron", "megatron.core", "megatron.core.datasets":
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
logging = sys.modules["megatron.core.utils"] = types.ModuleType("megatron.core.utils")
logging.log_single_rank = lambda *given, **named: None
import json, numpy, torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
if sys.argv[2] == "read":
    data = IndexedDataset(sys.argv[3])
    parts = [data[i].tolist() for i in range(len(data))]
    edges = data.document_indices.tolist()
    print(json.dumps([parts[a:b] for a, b in zip(edges, edges[1:])]))
else:
    builder = IndexedDatasetBuilder(sys.argv[3] + ".bin", dtype=getattr(numpy, sys.argv[4]))
    for number, document in enumerate(json.load(sys.stdin)):
        if number % 2:
            builder.add_document(sum(document, []), [len(part) for part in document])
        else:
            for part in document:
                builder.add_item(torch.tensor(part, dtype=torch.int64))
            builder.end_document()
    builder.finalize(sys.argv[3] + ".idx")
"""


def megatron(*arguments, **options):
    done = subprocess.run([sys.executable, "-c", READER, MEGATRON, *map(str, arguments)],
                          capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not MEGATRON, reason="MEGATRON_LM names no checkout of Megatron-LM")
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
def test_megatron_reads_and_writes_the_same_files(tmp_path, dtype):
    documents = random_documents(dtype, random.Random(dtype))
    megatron("write", tmp_path / "theirs", dtype, input=json.dumps(documents))
    joined = [sum(document, []) for document in documents]
    result = inspect(tmp_path / "theirs", "--documents", 100, "--tokens", 100)
    assert [entry["ids"] for entry in result["first_documents"]] == joined
    assert result["dtype"] == dtype
    (tmp_path / "a.txt").write_bytes(b"abcdefg\n\nhi\n")
    if dtype not in ("uint8", "int8"):
        for longest, parts in (0, [[[*b"abcdefg\n", END]], [[*b"hi\n", END]]]), (
                4, [[[*b"abcd"], [*b"efg\n"], [END]], [[*b"hi\n", END]]]):
            build(tmp_path / "a.txt", tmp_path / "ours", "--split-documents", "blank-line",
                  "--dtype", dtype, "--max-sequence", longest, "--overwrite")
            assert json.loads(megatron("read", tmp_path / "ours")) == parts


def test_people_see_the_first_documents(plain, lines):
    text = baton("data", "inspect", plain, "--tokenizer", "byte", "--documents", 1).stdout
    first = json.loads(lines.splitlines()[0])["text"]
    assert "20000 documents" in text and "uint16" in text and first[:60] in text
    result = inspect(plain, "--tokenizer", "byte", "--tokens", 20)
    assert result["first_documents"][0]["text"] == first[:20]
    assert "no_set" in refused("data", "inspect", "no_set")
    assert "nothing" in refused("data", "inspect", plain, "--tokenizer", "nothing")


def start_build(source, output, *options):
    return subprocess.Popen([PROGRAM, "data", "build", "--input", str(source), "--output",
                             str(output), *options], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env=QUIET)


def whole_sets(folder):
    return sorted(path.stem for path in folder.glob("*.idx") if path.with_suffix(".bin").exists())


def remove(paths):
    for path in paths:
        path.unlink()


def test_killed_builds_leave_nothing_that_looks_whole(lines, plain, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_bytes(lines)
    out = tmp_path / "out"
    begun = time.monotonic()
    build(source, out / "straight", "--holdout", "0.1")
    duration = time.monotonic() - begun
    draw = random.Random(8)
    killed = 0
    for attempt in range(30):
        prefix = out / "killed"
        process = start_build(source, prefix, "--holdout", "0.1")
        time.sleep(draw.uniform(0.2, 1.1) * duration)
        process.kill()
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        for found in whole_sets(out):
            if found.startswith("killed"):
                expect_same(out / found, out / found.replace("killed", "straight"))
        killed += (out / "killed.building").exists()
        if not (out / "killed.building").exists():
            remove(out.glob("killed*"))
    assert killed > 3
    remove(out.glob("killed*"))
    # What is left does not stand in the way, and goes.
    process = start_build(source, out / "killed", "--holdout", "0.1")
    while not (out / "killed_train.bin.part").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    build(source, out / "killed", "--holdout", "0.1")
    assert sorted(os.listdir(out)) == sorted(
        f"{name}_{part}.{end}" for name in ("killed", "straight") for part in ("train", "valid")
        for end in ("bin", "idx"))
    for part in "train", "valid":
        expect_same(out / f"killed_{part}", out / f"straight_{part}")


def test_two_builds_of_one_set(lines, tmp_path):
    os.mkfifo(tmp_path / "slow.jsonl")
    first = start_build(tmp_path / "slow.jsonl", tmp_path / "d", "--format", "jsonl")
    with open(tmp_path / "slow.jsonl", "wb") as pipe:
        pipe.write(b'{"text": "a"}\n')
        while not (tmp_path / "d.bin.part").exists():
            assert first.poll() is None
            time.sleep(0.01)
        (tmp_path / "b.txt").write_text("b")
        assert "another process is building" in refused(
            "data", "build", "--input", tmp_path / "b.txt", "--output", tmp_path / "d")
    first.communicate()
    assert first.returncode == 0 and read_documents(tmp_path / "d") == [[*b"a", END]]


def limit_files(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_on_file_sizes(lines, plain, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_bytes(lines)
    out = tmp_path / "out"
    command = ["data", "build", "--input", source, "--output", out / "d"]
    for size in 1000, 100000, 2000000:
        message = refused(*command, code=1, env=QUIET, preexec_fn=limit_files(size))
        assert "out/d." in message and "File too large" in message
        assert os.listdir(out) == []
    build(source, out / "d")
    before = (out / "d.idx").read_bytes()
    refused(*command, "--overwrite", code=1, env=QUIET, preexec_fn=limit_files(100000))
    assert (out / "d.idx").read_bytes() == before
    expect_same(out / "d", plain)


@pytest.mark.parametrize("after", range(0, 20, 2))
def test_a_failing_disk_leaves_the_old_set_or_none(lines, tmp_path, fail_writes, after):
    out = tmp_path / "out"
    (tmp_path / "old.txt").write_text("old")
    build(tmp_path / "old.txt", out / "d")
    (tmp_path / "new.jsonl").write_bytes(lines)
    environment = dict(QUIET, LD_PRELOAD=str(fail_writes), FAIL_FOLDER=f"{out}/",
                       FAIL_AFTER=str(after), FAIL_ERROR="28")
    command = ["data", "build", "--input", tmp_path / "new.jsonl", "--output", out / "d",
               "--overwrite"]
    result = subprocess.run([PROGRAM, *map(str, command)], capture_output=True, text=True,
                            env=environment)
    assert result.returncode in (0, 1)
    if result.returncode == 1:
        assert "No space left on device" in result.stderr and str(out) in result.stderr
        if whole_sets(out):
            assert read_documents(out / "d") == [[*b"old", END]]
    baton(*command)
    assert inspect(out / "d")["documents"] == 20000
    assert sorted(os.listdir(out)) == ["d.bin", "d.idx"]


def peak_memory(*arguments):
    """Seconds and the most resident megabytes of a command."""
    begun = time.monotonic()
    process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL,
                               env=QUIET)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.monotonic() - begun, usage.ru_maxrss / 1024


def sparse_set(prefix, documents, length):
    """Documents of one length, all tokens 0, on hardly any disk but for the index."""
    lengths = np.full(documents, length, "<i4")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES["uint16"], documents, documents + 1)
    with open(f"{prefix}.idx", "wb") as file:
        file.write(head)
        lengths.tofile(file)
        (np.arange(documents, dtype="<i8") * (2 * length)).tofile(file)
        np.arange(documents + 1, dtype="<i8").tofile(file)
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(2 * documents * length)


def test_a_set_of_a_billion_tokens_opens_at_once(recipe, corpus, tmp_path):
    sparse_set(tmp_path / "small", 10, 500)
    sparse_set(tmp_path / "large", 2_000_000, 500)
    options = ["--set", "train.steps=1", "--set", "train.eval_interval=0", "--set", "data.valid="]
    _, base = peak_memory("train", recipe, *options, "--set", f"data.train={tmp_path}/small",
                          "--set", f"run.folder={tmp_path}/small_run", "--set", "train.warmup_steps=0")
    seconds, memory = peak_memory("train", recipe, *options, "--set", f"data.train={tmp_path}/large",
                                  "--set", f"run.folder={tmp_path}/large_run", "--set", "train.warmup_steps=0")
    print(f"start and one step on 1e9 tokens: {seconds:.2f} s, {memory:.0f} MB, "
          f"{memory - base:.0f} MB more than on 5000 tokens")
    assert seconds < 5
    # The check of the index maps all of its 40 MB once and gives them back.
    assert memory - base < 60
    assert inspect(tmp_path / "large")["tokens"] == 10**9


def test_memory_of_a_build_does_not_grow_with_the_input(lines, tmp_path):
    with open(tmp_path / "large.jsonl.gz", "wb") as file:
        member = gzip.compress(lines, 1)
        for _ in range(20):
            file.write(member)
    memory = {}
    small = lines[: lines.index(b"\n", len(lines) // 2) + 1]
    (tmp_path / "small.jsonl.gz").write_bytes(gzip.compress(small, 1))
    for name in "small", "large":
        _, memory[name] = peak_memory("data", "build", "--input", tmp_path / f"{name}.jsonl.gz",
                                      "--output", tmp_path / name, "--threads", 2)
    print(f"peak memory: {memory}")
    assert memory["large"] - memory["small"] < 40


def test_blends(recipe, corpus, tmp_path):
    draw = random.Random(4)
    for name, count in ("a", 30), ("b", 90):
        (tmp_path / f"{name}.jsonl").write_text("".join(
            json.dumps({"text": " ".join(draw.choices(WORDS, k=9))}) + "\n" for _ in range(count)))
        build(tmp_path / f"{name}.jsonl", tmp_path / name)
    sets = f"data.train={tmp_path}/a,{tmp_path}/b"
    run, straight = tmp_path / "run", tmp_path / "straight"
    weights = ["--set", sets, "--set", "data.weights=3,1"]
    result = baton("train", recipe, *weights, "--set", f"run.folder={straight}")
    assert "75.0% of the training" in result.stderr and "25.0% of the training" in result.stderr
    assert f"data {tmp_path}/a: epoch 2 began at step" in result.stderr
    handed_out = int(re.search(r"/b: (\d+) tokens handed out", result.stderr)[1])
    assert abs(handed_out - 12 * 192 / 4) < 100  # two documents
    # Stopped and resumed: the same losses.
    baton("train", recipe, *weights, "--set", f"run.folder={run}")
    for checkpoint in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    baton("train", recipe, *weights, "--set", f"run.folder={run}")
    assert losses(run) == losses(straight)
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    for change in ["data.weights=1,1"], ["data.weights=1,3"], [f"data.train={tmp_path}/a",
                                                              "data.weights="]:
        line = refused("train", recipe, *weights, "--set", f"run.folder={run}",
                       *(word for setting in change for word in ("--set", setting)), env=QUIET)
        assert "cannot continue in this data" in line, line
    assert "data.weights" in refused("train", recipe, "--set", "data.weights=1,2")
    assert "data.weights" in refused("train", recipe, "--set", sets, "--set", "data.weights=1,0")
    assert "named twice" in refused("train", recipe, "--set", f"data.train={tmp_path}/a,{tmp_path}/a",
                                    "--set", f"run.folder={tmp_path}/new", env=QUIET)
    assert "data.train must be given" in refused("train", recipe, "--set", "data.train=[]")
