# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile Hugging Face folders: refused in one line, soon and with little memory."""

import json
import os
import resource
import shutil
import struct
import time

import pytest
from conftest import refused
from hf_models import FAMILIES, make_model

MOST_MEMORY = 2 << 30  # address space, libtorch's libraries included
MOST_SECONDS = 1.0  # of processor time, so that other programs may run meanwhile


@pytest.fixture(scope="session")
def whole_folders(tmp_path_factory):
    """A whole folder of each family."""
    root = tmp_path_factory.mktemp("whole")
    for family in FAMILIES:
        make_model(family, 0).save_pretrained(root / family)
    return root


@pytest.fixture
def folder_of(whole_folders, tmp_path):
    """Copies of them that a test may damage."""

    def copy(family):
        shutil.copytree(whole_folders / family, tmp_path / "model")
        return tmp_path / "model"

    return copy


def limit_child():
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def refused_soon(folder, *wanted):
    """The line with which a folder is refused; it holds all of `wanted`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = refused(
        "logits",
        folder,
        "--tokens=1,2",
        "--out",
        folder.parent / "out",
        "--threads",
        1,
        preexec_fn=limit_child,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < MOST_SECONDS, f"{seconds:.2f} s: {line}"
    assert not (folder.parent / "out").exists()
    for part in wanted:
        assert part in line, line
    return line


def edit_config(folder, changes):
    """Sets keys of config.json; None takes a key away."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_file(path, header, data, length=None):
    """A file of tensors whose header is this text, or these values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def in_shards(folder):
    """Cuts the folder's tensors into two files; returns the index."""
    header, data = header_of(folder / "model.safetensors")
    header.pop("__metadata__", None)
    names = sorted(header)
    index = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate((names[::2], names[1::2])):
        file, own, bytes_ = f"model-{number + 1:05}-of-00002.safetensors", {}, b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            offsets = [len(bytes_), len(bytes_) + end - begin]
            own[name] = dict(header[name], data_offsets=offsets)
            bytes_ += data[begin:end]
            index["weight_map"][name] = file
        write_file(folder / file, own, bytes_)
    (folder / "model.safetensors").unlink()
    write_index(folder, index)
    return index


def write_index(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# --- files of tensors


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 200_000_000])
def test_header_longer_than_its_file(folder_of, length):
    folder = folder_of("mamba2")
    write_file(folder / "model.safetensors", {}, b"", length)
    refused_soon(folder, "model.safetensors", "header")


NAME = "backbone.norm_f.weight"


@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [2**63, 2**64 - 1]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": [0.0, 4.0]},
        {"data_offsets": [0]},
        {"data_offsets": None},
        {"shape": [-1, -1]},
        {"shape": [2**62, 2**62]},
        {"shape": [2**63]},
        {"shape": [1] * 100_000},
        {"shape": "all"},
        {"dtype": "F31"},
        {"dtype": 7},
    ],
    ids=lambda entry: str(entry)[:30],
)
def test_tensor_that_its_file_cannot_hold(folder_of, entry):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header[NAME].update(entry)
    write_file(path, header, data)
    refused_soon(folder, "model.safetensors", NAME)


def test_tensors_that_overlap(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    names = sorted((n for n in header if n.endswith("A_log")))
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    write_file(path, header, data)
    refused_soon(folder, "model.safetensors")


def test_tensor_that_stands_twice(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    text = json.dumps(header)
    text = text[:-1] + f', "{NAME}": {json.dumps(header[NAME])}}}'
    write_file(path, text.encode(), data)
    refused_soon(folder, "model.safetensors", NAME, "twice")


def test_header_that_nests_deeply(folder_of):
    folder = folder_of("mamba2")
    write_file(folder / "model.safetensors", b'{"a":' + b"[" * 10_000_000, b"")
    refused_soon(folder, "model.safetensors", "nests deeper")


def test_name_of_several_lines(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header["\n\x1b[31m" * 1000] = dict(header.pop(NAME), dtype="F31")
    write_file(path, header, data)
    line = refused_soon(folder, "model.safetensors")
    assert line.isprintable() and len(line) < 1000


def test_tensor_that_is_missing(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header["other"] = header.pop(NAME)
    write_file(path, header, data)
    refused_soon(folder, str(folder), NAME)


def test_tensor_of_another_shape(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    header, data = header_of(path)
    header[NAME]["shape"] = [1, *header[NAME]["shape"]]
    write_file(path, header, data)
    refused_soon(folder, "model.safetensors", NAME, "shape")


# --- shards


def test_whole_shards_are_not_refused(folder_of):
    """The other tests' folder, undamaged but for one name, which is all that is complained of."""
    folder = folder_of("mamba2")
    index = in_shards(folder)
    index["weight_map"]["nothing"] = index["weight_map"][NAME]
    write_index(folder, index)
    refused_soon(folder, "nothing", index["weight_map"][NAME])


def test_shard_that_is_missing(folder_of):
    folder = folder_of("mamba2")
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused_soon(folder, "model-00002-of-00002.safetensors", "missing")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "..", ".", "", "a/../b", "a\x00b", "a\nb", 7, None, ["x"]]
)
def test_index_that_names_no_file_of_the_folder(folder_of, name):
    folder = folder_of("mamba2")
    index = in_shards(folder)
    index["weight_map"][NAME] = name
    write_index(folder, index)
    refused_soon(folder, "model.safetensors.index.json", NAME)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map":', "\xff"])
def test_index_that_is_none(folder_of, text):
    folder = folder_of("mamba2")
    (folder / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    refused_soon(folder, "model.safetensors.index.json")


def test_tensor_in_two_shards(folder_of):
    folder = folder_of("mamba2")
    files = in_shards(folder)["weight_map"]
    other = ({*files.values()} - {files[NAME]}).pop()
    header, data = header_of(folder / files[NAME])
    other_header, other_data = header_of(folder / other)
    begin, end = header[NAME]["data_offsets"]
    offsets = [len(other_data), len(other_data) + end - begin]
    other_header[NAME] = dict(header[NAME], data_offsets=offsets)
    write_file(folder / other, other_header, other_data + data[begin:end])
    refused_soon(folder, NAME)


# --- config.json


SIZES = {
    "nemotron_h": {"groups": "n_groups", "hidden": "intermediate_size", "heads": "mamba_num_heads"},
    "mamba2": {"groups": "n_groups", "hidden": "state_size", "heads": "num_heads"},
    "bamba": {"groups": "mamba_n_groups", "hidden": "intermediate_size", "heads": "mamba_n_heads"},
    "granitemoehybrid": {
        "groups": "mamba_n_groups",
        "hidden": "shared_intermediate_size",
        "heads": "mamba_n_heads",
    },
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [0, -1, 2**40, 10**15, 2**63, 10**30, 1.5, "8", True, [8], {}])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_absurd_sizes(folder_of, family, key, value):
    folder = folder_of(family)
    edit_config(folder, {key: value})
    refused_soon(folder, "config.json", key)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [0, -1, 2**40])
@pytest.mark.parametrize("size", ["groups", "hidden", "heads"])
def test_absurd_sizes_of_layers(folder_of, family, size, value):
    folder = folder_of(family)
    key = SIZES[family][size]
    edit_config(folder, {key: value})
    refused_soon(folder, "config.json", key)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "heads", "hidden"])
def test_sizes_that_the_tensors_do_not_have(folder_of, family, key):
    """The largest that a config may name: memory for them must not be asked for."""
    folder = folder_of(family)
    largest = 4096 if SIZES[family].get(key) == "state_size" else 1 << 20
    edit_config(folder, {SIZES[family].get(key, key): largest})
    refused_soon(folder, str(folder))


@pytest.mark.parametrize("family", ["mamba2", "bamba"])
@pytest.mark.parametrize("value", [0, 10_001, 10**9])
def test_absurd_numbers_of_layers(folder_of, family, value):
    folder = folder_of(family)
    edit_config(folder, {"num_hidden_layers": value})
    refused_soon(folder, "config.json", "num_hidden_layers")


@pytest.mark.parametrize("family", FAMILIES)
def test_more_layers_than_tensors(folder_of, family):
    folder = folder_of(family)
    most = 10_000
    edit_config(
        folder,
        {
            "num_hidden_layers": most,
            "layers_block_type": ["mamba"] * most if family == "nemotron_h" else None,
            "layer_types": ["mamba"] * most if family == "granitemoehybrid" else None,
        },
    )
    refused_soon(folder, str(folder))


@pytest.mark.parametrize(
    "family, changes, key",
    [
        ("nemotron_h", {"head_dim": 0}, "head_dim"),
        ("nemotron_h", {"mamba_head_dim": 0}, "mamba_head_dim"),
        ("mamba2", {"head_dim": 0}, "head_dim"),
        ("mamba2", {"num_heads": 7}, "expand"),
        ("mamba2", {"hidden_act": "relu"}, "hidden_act"),
        ("mamba2", {"time_step_limit": [1.0, 0.5]}, "time_step_limit"),
        ("bamba", {"mamba_d_head": 0}, "mamba_d_head"),
        ("bamba", {"mamba_d_head": "huge"}, "mamba_d_head"),
        ("bamba", {"attn_layer_indices": [99]}, "attn_layer_indices"),
        ("bamba", {"attn_layer_indices": [-1]}, "attn_layer_indices"),
        ("bamba", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters.rope_type"),
        ("bamba", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type"),
        ("bamba", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.factor"),
        ("bamba", {"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta"),
        ("bamba", {"rope_parameters": [1]}, "rope_parameters"),
        (
            "bamba",
            {"rope_parameters": None, "rope_scaling": {"type": "su", "factor": 2}},
            "rope_scaling.type",
        ),
        ("bamba", {"hidden_act": "gelu"}, "hidden_act"),
        ("granitemoehybrid", {"num_local_experts": 8}, "num_local_experts"),
        ("granitemoehybrid", {"num_local_experts": None}, "num_local_experts"),
        ("granitemoehybrid", {"layer_types": ["linear_attention", "moe"]}, "layer_types"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("nemotron_h", {"layers_block_type": ["linear_attention", "moe"]}, "layers_block_type"),
        ("nemotron_h", {"layers_block_type": ["llm"]}, "layers_block_type"),
        ("nemotron_h", {"layers_block_type": []}, "layers_block_type"),
        (
            "nemotron_h",
            {"layers_block_type": None, "hybrid_override_pattern": "MEM"},
            "hybrid_override_pattern",
        ),
        (
            "nemotron_h",
            {"layers_block_type": None, "hybrid_override_pattern": 5},
            "hybrid_override_pattern",
        ),
        ("nemotron_h", {"mlp_hidden_act": "swish"}, "mlp_hidden_act"),
        ("nemotron_h", {"sliding_window": 64}, "sliding_window"),
        ("nemotron_h", {"attention_bias": True}, "attention_bias"),
        ("nemotron_h", {"dtype": "int8"}, "dtype"),
        ("nemotron_h", {"dtype": None, "torch_dtype": "int8"}, "torch_dtype"),
        ("mamba2", {"model_type": "llama"}, "model_type"),
        ("mamba2", {"model_type": None}, "model_type"),
        ("mamba2", {"model_type": ["mamba2"]}, "model_type"),
    ],
)
def test_values_that_no_model_here_has(folder_of, family, changes, key):
    folder = folder_of(family)
    edit_config(folder, changes)
    refused_soon(folder, "config.json", key)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_keys_that_must_be_given(folder_of, family, key):
    folder = folder_of(family)
    edit_config(folder, {key: None})
    refused_soon(folder, "config.json", key, "must be given")


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_that_do_not_divide_the_heads(folder_of, family):
    folder = folder_of(family)
    edit_config(folder, {SIZES[family]["groups"]: 1023})
    refused_soon(folder)


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[]", "7", "null", "Infinity", '{"a": Infinit}', '{"a": 1e999}', "\xff\xfe"],
)
def test_config_that_is_no_object(folder_of, text):
    folder = folder_of("mamba2")
    (folder / "config.json").write_text(text, encoding="latin-1")
    refused_soon(folder, "config.json")


def test_config_that_nests_deeply(folder_of):
    folder = folder_of("mamba2")
    (folder / "config.json").write_text('{"a":' * 1_000_000)
    refused_soon(folder, "config.json", "nests deeper")


def test_key_that_stands_twice(folder_of):
    folder = folder_of("mamba2")
    path = folder / "config.json"
    path.write_text('{"vocab_size": 8, ' + path.read_text().strip()[1:])
    refused_soon(folder, "config.json", "vocab_size", "twice")


# --- the folder


def test_pickle_files_are_named(folder_of):
    folder = folder_of("mamba2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused_soon(folder, "pytorch_model.bin", "pickle")


def test_no_tensors_at_all(folder_of):
    folder = folder_of("mamba2")
    (folder / "model.safetensors").unlink()
    refused_soon(folder, "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder(folder_of, name):
    folder = folder_of("mamba2")
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    refused_soon(folder, name, "link out of the folder")


def test_index_that_links_out_of_the_folder(folder_of):
    folder = folder_of("mamba2")
    in_shards(folder)
    name = "model.safetensors.index.json"
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    refused_soon(folder, name, "link out of the folder")


def test_link_in_a_circle(folder_of):
    folder = folder_of("mamba2")
    path = folder / "model.safetensors"
    path.unlink()
    path.symlink_to("model.safetensors")
    refused_soon(folder, "model.safetensors")


NOT_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json"]
)
def test_what_is_no_file_of_that_name(folder_of, name, kind):
    folder = folder_of("mamba2")
    (folder / name).unlink(missing_ok=True)
    NOT_FILES[kind](folder / name)
    began = time.monotonic()
    refused_soon(folder, name)
    assert time.monotonic() - began < 20  # a pipe is not waited for


def test_text_files_of_any_size_are_not_read(folder_of):
    folder = folder_of("mamba2")
    with open(folder / "config.json", "r+b") as file:
        file.truncate(1 << 40)
    refused_soon(folder, "config.json", "larger than")
