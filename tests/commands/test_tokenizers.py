# SPDX-License-Identifier: Apache-2.0
"""baton tokenize gives what PyPI's tokenizers and sentencepiece give."""

import json
import random
import subprocess

import pytest
import tokenizers_of_all_makes as makes
from conftest import PROGRAM, baton, refused
from tokenizers import Tokenizer

ENDS = {"gpt2_like": "<|endoftext|>", "llama3_like": "<|end|>"}
MAKES = ["gpt2_like", "llama3_like", "llama2_like", "metaspace_bpe", "unigram", "t5_like"]
FEW, ALL = 3000, 100_000


def tokenize(path, records, *options):
    """The lines that `baton tokenize` prints."""
    result = subprocess.run([PROGRAM, "tokenize", str(path), *options], input=records,
                            capture_output=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode().split("\n")[:-1]


def encode(path, records):
    lines = tokenize(path, b"".join(record + b"\0" for record in records), "--records", "zero")
    return [[int(word) for word in line.split()] for line in lines]


def decode(path, ids):
    text = "".join(" ".join(map(str, line)) + "\n" for line in ids)
    return [json.loads(line) for line in tokenize(path, text.encode(), "--decode", "--json")]


@pytest.fixture(scope="module")
def lines():
    return makes.text_to_train_on(random.Random(1))


@pytest.fixture(scope="module")
def trained_folder(lines, tmp_path_factory):
    """Gives the folder of a tokenizer, which is trained at the first request."""
    folders = {}

    def folder_of(name):
        if name not in folders:
            folder = folders[name] = tmp_path_factory.mktemp(name)
            model = folder / "spm" / "charsmap.model"
            model.parent.mkdir()
            make = getattr(makes, name)
            tokenizer = make(lines, model) if name == "t5_like" else make(lines)
            (folder / "tokenizer.json").write_text(tokenizer.to_str())
            (folder / "tokenizer_config.json").write_text(
                json.dumps({"eos_token": {"content": ENDS.get(name, "</s>")}}))
        return folders[name]

    return folder_of


def check_equal(folder, count, seed):
    judge = Tokenizer.from_file(str(folder / "tokenizer.json"))
    judge.no_truncation()
    judge.no_padding()
    special = [token.content for token in judge.get_added_tokens_decoder().values()]
    records = makes.texts(count, special, seed)
    texts = [record.decode(errors="replace") for record in records]
    expected = [e.ids for e in judge.encode_batch(texts, add_special_tokens=False)]
    for record, ours, theirs in zip(records, encode(folder, records), expected, strict=True):
        assert ours == theirs, record
    draw = random.Random(seed)
    size = judge.get_vocab_size()
    ids = [draw.choices(range(size), k=draw.randint(0, 12)) for _ in range(count // 4)]
    ids += expected[: count // 4]
    for line, ours in zip(ids, decode(folder, ids), strict=True):
        assert ours == judge.decode(line, skip_special_tokens=True), line


@pytest.mark.parametrize("name", MAKES)
def test_ids_and_text_equal_those_of_tokenizers(trained_folder, name):
    check_equal(trained_folder(name), FEW, seed=2)


@pytest.mark.long
@pytest.mark.parametrize("name", MAKES)
def test_all_ids_and_text_equal_those_of_tokenizers(trained_folder, name):
    check_equal(trained_folder(name), ALL, seed=3)


@pytest.mark.parametrize("kind, options", [
    ("bpe", {}), ("unigram", {"normalization_rule_name": "nmt_nfkc"}),
    ("bpe", {"add_dummy_prefix": False, "remove_extra_whitespaces": False,
             "normalization_rule_name": "identity", "user_defined_symbols": ["<tool>", "word"]}),
    ("unigram", {"remove_extra_whitespaces": False, "split_digits": True, "vocab_size": 900})])
def test_sentencepiece_models(lines, tmp_path, kind, options):
    path = tmp_path / "spiece.model"
    judge = makes.sentencepiece_model(lines, path, kind, **options)
    records = makes.texts(FEW, ["<s>", "</s>", "<tool>", "<unk>"], 5)
    expected = [judge.encode(record) for record in records]
    for record, ours, theirs in zip(records, encode(tmp_path, records), expected, strict=True):
        assert ours == theirs, record
    draw = random.Random(5)
    ids = [draw.choices(range(judge.vocab_size()), k=draw.randint(0, 9)) for _ in range(FEW)]
    ids += expected
    for line, ours in zip(ids, decode(path, ids), strict=True):
        assert ours == judge.decode(line), line


def test_unsupported_and_wrong_files_get_one_line(trained_folder, tmp_path):
    content = json.loads((trained_folder("gpt2_like") / "tokenizer.json").read_text())
    path = tmp_path / "tokenizer.json"

    def refusal(**changes):
        path.write_text(json.dumps(content | changes))
        return refused("tokenize", path, input="")

    assert f'{path}: pre_tokenizer "BertPreTokenizer" is not supported; known: ByteLevel' in refusal(
        pre_tokenizer={"type": "BertPreTokenizer"})
    assert 'normalizer "Nmt" is not supported' in refusal(normalizer={"type": "Nmt"})
    assert 'model "WordPiece" is not supported' in refusal(model={"type": "WordPiece"})
    assert 'decoder "CTC" is not supported' in refusal(decoder={"type": "CTC"})
    assert 'post_processor "BertProcessing"' in refusal(post_processor={"type": "BertProcessing"})
    assert "dropout" in refusal(model=content["model"] | {"dropout": 0.1})
    assert "not valid JSON" in (path.write_text("{") and refused("tokenize", path, input=""))
    assert "holds neither" in refused("tokenize", tmp_path / "..", input="")
    assert "known: byte" in refused("tokenize", "gpt2", input="")


def test_a_model_keeps_its_tokenizer(corpus, recipe, trained_folder, tmp_path):
    folder = tmp_path / "tokenizer_folder"
    folder.mkdir()
    for file in trained_folder("gpt2_like").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    baton("data", "build", "--input", corpus / "text.jsonl", "--output", tmp_path / "data",
          "--tokenizer", folder, "--holdout", "0.1")
    text = recipe.read_text().replace(f"{corpus}/data", f"{tmp_path}/data")
    recipe.write_text(text.replace("[data]", f'[data]\ntokenizer = "{folder}"'))
    baton("train", recipe)
    # The run goes elsewhere, and what it was made from is lost.
    (tmp_path / "run").rename(tmp_path / "moved")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    options = ["--prompt", "the baton goes", "--max-new-tokens", 8, "--json"]
    result = json.loads(baton("generate", tmp_path / "moved", *options).stdout)
    judge = Tokenizer.from_file(str(trained_folder("gpt2_like") / "tokenizer.json"))
    assert result["text"] == judge.decode(result["tokens"])
    bits = json.loads(baton("eval", tmp_path / "moved", "--data", tmp_path / "data_valid",
                            "--json").stdout)["bits_per_byte"]
    assert bits > 0
