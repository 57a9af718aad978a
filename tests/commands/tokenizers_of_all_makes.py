# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of different make, trained here with PyPI's `tokenizers` and `sentencepiece`, and the
texts that they are compared on."""

import io
import json
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

WORDS = """the of and to in a is that it was for on are as with his they at be this from have or by
one had not but what all were when we there can an your which their said if do will each about how
up out them then she many some so these would other into has more her two like him see time could no
make than first been its who now people my made over did down only way find use may water long little
very after words called just where most know get through back much before go good new write our used
me man too any day same right look think also around another came come work three word must because
does part even place well such here take why things help put years different away again off went old
number great tell men say small every found still between name should Mr home big give air line set
own under read last never us left end along while might next sound below saw something thought both
few those always looked show large often together asked house don't world going want school important
until form food keep children feet land side without boy once animals life enough took sometimes four
head above kind began almost live page got earth need far hand high year mother light parts country
father let night following picture being study second eyes soon times story boys since white days ever
paper hard near sentence better best across during today others however sure means knew it's try told
young miles sun ways thing whole hear example heard several change answer room sea against top turned
learn point city play toward five using himself usually""".split()
OTHER = ("el niño comió mañana después über straße größer naïve façade élève Москва привет мир как дела "
         "καλημέρα κόσμε 東京は日本の首都です 你好世界 안녕하세요 세계 مرحبا بالعالم שלום नमस्ते दुनिया "
         "สวัสดี 😀 👩‍👩‍👧 café ﬁne ① ½ Ⅷ").split()
CODE = ["for (int i = 0; i < n; ++i) {\n\tsum += a[i] * 3.14159;\n}\n", "def f(x):\n    return x ** 2\n",
        "SELECT * FROM t WHERE id = 12345678;\r\n", "  <div class=\"a\">&nbsp;</div>\n", "x_1 = 0xFF & ~y\n"]

GPT2_SPECIAL = ["<|endoftext|>"]
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def text_to_train_on(draw):
    """Lines of many languages, mostly English."""
    lines = []
    for _ in range(6000):
        words = draw.choices(WORDS, k=draw.randint(3, 18))
        if draw.random() < 0.4:
            words += draw.choices(OTHER, k=draw.randint(1, 6))
        if draw.random() < 0.3:
            words.append(str(draw.randint(0, 10 ** draw.randint(1, 9))))
        draw.shuffle(words)
        words[0] = words[0].capitalize()
        lines.append(" ".join(words) + draw.choice([".", "!", "?", ",", ";\n", " - "]))
    return lines + CODE * 40


def gpt2_like(lines):
    """Byte-level, split as GPT-2 did."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=3000, special_tokens=GPT2_SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def llama3_like(lines):
    """Byte-level, split by a regular expression and by digits, NFC, with added tokens of all kinds."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<|begin|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|im_start|>system"])
    tokenizer.add_tokens([
        AddedToken("<tool>", lstrip=True), AddedToken("</tool>", rstrip=True),
        AddedToken("word", single_word=True, normalized=False), AddedToken("\n\n", normalized=False),
        AddedToken("ü\u0301x"), AddedToken("grüß", normalized=True)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
            special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))])])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=8)
    return tokenizer


def llama2_like(lines):
    """SentencePiece's way: Prepend and Replace, byte fallback, no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaced = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.pre_tokenizer = spaced
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=3000, special_tokens=special, show_progress=False, limit_alphabet=120))
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    content["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    content["added_tokens"] = content["added_tokens"][:3]
    content["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return Tokenizer.from_str(json.dumps(content))


def metaspace_bpe(lines):
    """Byte fallback with a Metaspace pre-tokenizer, unknown characters for want of some bytes."""
    content = json.loads(llama2_like(lines).to_str())
    content["normalizer"] = None
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        {"type": "Punctuation", "behavior": "MergedWithPrevious"}]}
    for byte in [0xE2, 0xF0]:
        vocabulary = content["model"]["vocab"]
        vocabulary[f"<none {byte}>"] = vocabulary.pop(f"<0x{byte:02X}>")
    content["model"]["fuse_unk"] = False
    content["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                          "split": True}
    return Tokenizer.from_str(json.dumps(content))


def unigram(lines):
    """Unigram, NFKC and lower case, Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(lines, trainers.UnigramTrainer(
        vocab_size=2000, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False))
    return tokenizer


def sentencepiece_model(lines, path, model_type, **options):
    """Trains a .model file and returns its processor."""
    import sentencepiece

    sentences = [part for line in lines for part in line.split("\n") if part.strip()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, model_type=model_type, vocab_size=options.pop("vocab_size", 1500),
        byte_fallback=True, character_coverage=0.995, minloglevel=2, **options)
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def t5_like(lines, path):
    """Unigram with the character map of a SentencePiece model."""
    import base64

    sentencepiece_model(lines, path, "unigram", normalization_rule_name="nmt_nfkc_cf")
    content = json.loads(unigram(lines).to_str())
    content["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Precompiled",
         "precompiled_charsmap": base64.b64encode(charsmap_of(path.read_bytes())).decode()},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}
    return Tokenizer.from_str(json.dumps(content))


def charsmap_of(model):
    """The field normalizer_spec.precompiled_charsmap of a ModelProto."""
    def fields(message):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = message[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return value

        while at < len(message):
            key = varint()
            size = {0: 0, 1: 8, 5: 4}.get(key & 7)
            if key & 7 == 0:
                varint()
            elif key & 7 == 2:
                size = varint()
            yield key >> 3, message[at:at + size]
            at += size

    spec = dict(fields(model))[3]
    return dict(fields(spec))[2]


def random_text(draw, special):
    """A string of one of many kinds: words, all of Unicode, long runs, white space, tokens."""
    def any_character():
        while True:
            point = draw.choice([draw.randint(1, 0x7F), draw.randint(0x80, 0x7FF),
                                 draw.randint(0x800, 0xFFFF), draw.randint(0x10000, 0x10FFFF),
                                 draw.randint(0x300, 0x36F), draw.randint(0xAC00, 0xD7A3),
                                 draw.randint(0x4E00, 0x9FFF), draw.randint(0x1F300, 0x1FAFF)])
            if not 0xD800 <= point <= 0xDFFF:
                return chr(point)

    def part():
        kind = draw.randrange(10)
        if kind == 0:
            return "".join(any_character() for _ in range(draw.randint(1, 12)))
        if kind == 1:
            return draw.choice([" ", "\n", "\t", "a", "▁", any_character()]) * draw.randint(1, 40)
        if kind == 2:
            return "".join(draw.choices(" \n\t\r\u00a0\u3000\u2028\u200b\v", k=draw.randint(1, 8)))
        if kind == 3:
            return draw.choice(special) if special else ""
        if kind == 4:
            return draw.choice(CODE)
        if kind == 5:
            return str(draw.randint(0, 10 ** draw.randint(1, 20)))
        if kind == 6:
            return draw.choice(["'s", "'RE", "\u2019ll", "!!!", "...", "(", ").", "<", "|>", "word"])
        words = draw.choices(WORDS if kind < 9 else OTHER, k=draw.randint(1, 5))
        return " ".join(words) if draw.random() < 0.8 else "".join(words).upper()

    glue = draw.choice(["", "", " ", "\n"])
    return glue.join(part() for _ in range(draw.randint(0, 6)))


def random_bytes(draw, special):
    """The same with bytes that form no characters."""
    text = bytearray(random_text(draw, special).encode())
    for _ in range(draw.randint(1, 4)):
        if text and draw.random() < 0.5:
            del text[draw.randrange(len(text))]
        else:
            text.insert(draw.randint(0, len(text)), draw.randint(0x80, 0xFF))
    return bytes(text).replace(b"\0", b"")


def texts(count, special, seed):
    """`count` records without zero bytes, a fifth of them broken UTF-8."""
    draw = random.Random(seed)
    return [random_bytes(draw, special) if i % 5 == 4 else random_text(draw, special).encode()
            for i in range(count)]
