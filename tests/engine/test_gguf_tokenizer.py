"""llama.cpp reads a text as the tokens that the model was trained on."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.engine.test_gguf_families import in_gguf, merge_of, small_base
from worker.engine.results.exports.gguf_tokenizer import CUTS
from worker.engine.results.exports.llama_cpp import HOSTILE, loaded
from worker.engine.results.exports.merged import Merge

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>"]
TEXTS = [
    HOSTILE,
    "I'VE DON'T we'Ll 'd a//\n\nb/c// 1 22 333 4444 camelCase PascalCase XMLHttp",
    " \n\n \t\n x  def f(x):\n    return x\n\n\n",
    "<|im_start|>user\nAhoy</s> <s>there",
]
# What a text of chance is made of.
SIGNS = " \t\n\r'/.,;0123456789abcdeABCDEäÉŒ中文😀\u0301"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Merge]:
    """Of more tokens than any of these tokenizers has."""
    folder = tmp_path_factory.mktemp("gguf") / "base"
    small_base(folder, "Llama 2, Llama 3", vocab_size=1600)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder, merge_of(folder)


def texts() -> Iterator[str]:
    yield from TEXTS
    chance = random.Random(3)
    for _ in range(40):
        yield "".join(chance.choices(SIGNS, k=50))


def assert_same(tokenizer: Tokenizer, base: tuple[Path, Merge], *, in_ascii: bool = False) -> None:
    folder, merge = base
    tokenizer.save(str(folder / "tokenizer.json"))
    path = in_gguf(folder, merge, "q8_0", folder.parent / "model.gguf")
    with loaded(path) as llama:
        for text in texts():
            if in_ascii and not text.isascii():
                continue
            assert llama.tokens(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


def by_bytes(cut: Any, *, ignore_merges: bool = False) -> Tokenizer:
    """Trained on the texts, so that what is cut apart shows."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts()] * 2, trainer)
    return tokenizer


@pytest.mark.parametrize(
    ("pattern", "name"), [(pattern, name) for pattern, name in CUTS.items() if pattern != r"\d"]
)
def test_texts_are_cut_by_the_same_expressions(
    base: tuple[Path, Merge], pattern: str, name: str
) -> None:
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for ignore_merges in {"dbrx": (False, True), "tekken": (True,)}.get(name, (False,)):
        tokenizer = by_bytes(cut, ignore_merges=ignore_merges)
        assert_same(tokenizer, base, in_ascii=name == "tekken")


def test_texts_are_cut_as_gpt_2_does(base: tuple[Path, Merge]) -> None:
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert_same(by_bytes(whole), base)
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert_same(by_bytes(pre_tokenizers.Sequence([digits, whole])), base)


@pytest.mark.parametrize("begins_with_space", [True, False])
def test_a_tokenizer_of_sentencepiece_keeps_its_order(
    base: tuple[Path, Merge], begins_with_space: bool
) -> None:
    """As its files are converted: each piece can be put together of any two pieces."""
    signs = sorted({sign for text in texts() for sign in text.replace(" ", "▁")} - {"😀"})
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=signs, show_progress=False)
    learned = Tokenizer(models.BPE())
    learned.train_from_iterator([text.replace(" ", "▁") for text in texts()], trainer)
    pieces = sorted(learned.get_vocab(), key=learned.get_vocab().__getitem__)
    vocabulary = [*SPECIAL[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in numbers and piece[at:] in numbers
    ]
    model = models.BPE(
        vocab=numbers, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    first = [normalizers.Prepend("▁")] if begins_with_space else []
    tokenizer.normalizer = normalizers.Sequence([*first, *spaces])
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in SPECIAL])
    assert_same(tokenizer, base)
