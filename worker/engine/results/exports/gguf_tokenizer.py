"""A tokenizer as a GGUF file has it: the tokens with their kinds, and how they are put together."""

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from worker.engine.errors import Untrainable

# llama.cpp's names of how byte-level tokenizers cut a text, by the regular expressions that their
# files have.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
NO_WORD = r"[^\r\n\p{L}\p{N}]?"
CUTS = {
    rf"{WORDS}|\p{{N}}{{1,3}}|{REST}": "dbrx",
    rf"{WORDS}|\p{{N}}|{REST}": "qwen2",
    # But for capitals with accents in the middle of a word.
    rf"{NO_WORD}{UPPER}*{LOWER}+|{NO_WORD}{UPPER}+{LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
    # But for figures such as ½.
    r"\d": "smollm",
}
# Of tokenizers that do not put a word together which is a token itself.
UNMERGED = {"dbrx": "llama-bpe"}
# What it writes a space as.
SPACE = "▁"


def add_tokenizer(writer: GGUFWriter, folder: Path, vocabulary: int, template: str | None) -> None:
    """That of a base model's folder, filled up to `vocabulary` tokens, with another chat template
    if one is given.

    Raises:
        Untrainable: llama.cpp has no such tokenizer.

    """
    file = json.loads((folder / "tokenizer.json").read_text())
    model = file["model"]
    if model["type"] != "BPE":
        raise refused(f"a tokenizer of type {model['type']}")
    by_bytes = not model.get("byte_fallback")
    tokens = dict(tokens_of(file))
    texts = [
        tokens.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(vocabulary)
    ]
    if by_bytes:
        writer.add_tokenizer_model("gpt2")
        cut = cut_of(file["pre_tokenizer"])
        writer.add_tokenizer_pre(UNMERGED.get(cut, cut) if model.get("ignore_merges") else cut)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores_of(model, [text for text, _ in texts]))
        writer.add_add_space_prefix(begins_with_space(file))
    writer.add_token_list([text for text, _ in texts])
    writer.add_token_types([kind for _, kind in texts])
    special = SpecialVocab(folder, load_merges=by_bytes, n_vocab=vocabulary)
    special.chat_template = template or special.chat_template
    special.add_to_gguf(writer, quiet=True)


def tokens_of(file: Mapping[str, Any]) -> Iterator[tuple[int, tuple[str, TokenType]]]:
    """Each one's text and kind by its number; what was added later counts."""
    model = file["model"]
    for text, number in model["vocab"].items():
        kind = TokenType.NORMAL
        if model.get("byte_fallback") and len(text) == len("<0x00>") and text.startswith("<0x"):
            kind = TokenType.BYTE
        if text == model.get("unk_token"):
            kind = TokenType.UNKNOWN
        yield number, (text, kind)
    for token in file["added_tokens"]:
        if token["content"] == model.get("unk_token"):
            continue
        text = token["content"]
        if token["special"] or (text.startswith("<|") and text.endswith("|>")):
            yield token["id"], (text, TokenType.CONTROL)
        else:
            yield token["id"], (text.replace(SPACE, " "), TokenType.USER_DEFINED)


def cut_of(cuts: Mapping[str, Any] | None) -> str:
    """llama.cpp's name of how a text is cut before its pieces are put together."""
    parts = (cuts or {}).get("pretokenizers", [cuts])
    for part in filter(None, parts):
        if part["type"] == "Split" and (name := CUTS.get(part["pattern"].get("Regex", ""))):
            return name
        if part["type"] == "Digits" and part["individual_digits"]:
            return "smollm"
    if cuts and [part["type"] for part in parts] == ["ByteLevel"]:
        return "gpt-2"
    raise refused("the way that this tokenizer cuts a text")


def scores_of(model: Mapping[str, Any], texts: list[str]) -> list[float]:
    """The pair with the highest is put together first: that of the first merge."""
    first = dict[str, int]()
    for place, pair in enumerate(model["merges"]):
        one, other = pair.split(" ") if isinstance(pair, str) else pair
        first.setdefault(one + other, place)
    last = count(len(first))
    return [-float(first[text] if text in first else next(last)) for text in texts]


def begins_with_space(file: Mapping[str, Any]) -> bool:
    """Whether it reads a text as if a space stood before it."""
    normalizer, cuts = file["normalizer"] or {}, file["pre_tokenizer"] or {}
    normalizers = normalizer.get("normalizers", [normalizer])
    parts = cuts.get("pretokenizers", [cuts])
    return any(each.get("type") == "Prepend" for each in normalizers) or any(
        each.get("type") == "Metaspace" and each.get("prepend_scheme", "always") != "never"
        for each in parts
    )


def refused(what: str) -> Untrainable:
    return Untrainable(
        "export_refused",
        f"llama.cpp has no name for {what}. Export it as merged, or the adapter as gguf.",
    )
