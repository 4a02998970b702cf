"""Make the models in this folder: `python models/build.py demo` or `python models/build.py tiny`.

demo: a small Llama (1.3 M parameters) pretrained on our own text, so that tuning it shows.
      About half an hour on one core.
tiny: a random Llama for unit tests. Seconds.

The shipped weights are the reference (`sha256sum -c SHA256SUMS`, in this folder). Floating point
and Python's docstrings differ between machines: running this again follows the same recipe, but
need not give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import pydoc_data.topics
import random
import re
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jinja2 import Environment
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from examples import world  # noqa: E402  (needs the repository root on the path)

if TYPE_CHECKING:
    from collections.abc import Iterator

BOS, EOS, START, END, PAD = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
)
SPECIALS = [BOS, EOS, START, END, PAD]  # ids 0 to 4
CONTEXT = 1024  # tokens

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_render = Environment(autoescape=False).from_string(TEMPLATE)  # noqa: S701  (a model reads it)

Message = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """Sizes of one model; linear dimensions are multiples of 32, so 4-bit blocks of 64 fit."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    steps: int  # pretraining steps; 0 leaves the weights random
    seed: int


RECIPES = {
    "demo": Recipe(
        hidden=128, inner=384, layers=4, heads=4, kv_heads=2, vocab=4096, steps=2000, seed=7
    ),
    "tiny": Recipe(
        hidden=64, inner=128, layers=2, heads=4, kv_heads=2, vocab=1024, steps=0, seed=11
    ),
}
BATCH_TOKENS = 4096  # per step: 16 rows of 256, or 4 rows of 1024 in one step of twelve
PEAK_RATE, WARMUP = 3e-3, 100


# ---- text ------------------------------------------------------------------------------------


def chat(messages: list[Message]) -> str:
    return _render.render(messages=messages, bos_token=BOS) + EOS


def turn(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def docstrings() -> list[str]:
    """English prose that is on every machine: docstrings and notes of Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [str(text) for text in pydoc_data.topics.topics.values()]
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idle_test", "pydoc_data"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue  # a few files are there to be wrong
        texts.extend(
            ast.get_docstring(node) or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        )
    prose = [
        "\n\n".join(p for p in (paragraph(q) for q in re.split(r"\n\s*\n", text)) if p)
        for text in texts
    ]
    return list(dict.fromkeys(p for p in prose if len(p) >= 60))


def paragraph(text: str) -> str:
    """The paragraph on one line if it reads like English, else nothing."""
    line = " ".join(text.split())
    letters = sum(c.isalpha() or c == " " for c in line)
    symbols = len(re.findall(r"[_=<>\[\]{}|\\*`^]", line))
    if len(line) < 40 or ">>>" in line or letters < 0.8 * len(line) or symbols > 0.05 * len(line):
        return ""
    return line


class Writer:
    """Writes endless plain chats, notes and sea stories about the facts of `examples/world.py`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.facts = world.facts()
        self.by_subject: dict[tuple[str, str], list[world.Fact]] = {}
        for fact in self.facts:
            self.by_subject.setdefault((fact.topic, fact.subject), []).append(fact)
        self.groups = [group for group in self.by_subject.values() if len(group) > 1]

    def single(self) -> str:
        fact = self.rng.choice(self.facts)
        return chat(self.maybe_system() + turn(self.rng.choice(fact.questions), fact.answer))

    def maybe_system(self) -> list[Message]:
        if self.rng.random() < 0.2:
            return [{"role": "system", "content": self.rng.choice(world.SYSTEMS)}]
        return []

    def many(self, turns: int) -> str:
        """A chat of about so many turns, with small talk at its ends and follow-up questions."""
        messages = self.maybe_system()
        if self.rng.random() < 0.3:
            messages += turn(*self.rng.choice(world.SMALL_TALK))
        while len(messages) < 2 * turns:
            group = self.rng.choice(self.groups)
            fact, *others = self.rng.sample(group, min(len(group), self.rng.choice((1, 2, 2, 3))))
            question = self.rng.choice(fact.questions)
            if self.rng.random() < 0.05:
                messages += turn(question, world.UNSURE)
                question = self.rng.choice(world.RETRIES)
            messages += turn(question, fact.answer)
            for other in others:
                messages += turn(self.rng.choice(other.follow_ups or other.questions), other.answer)
            if self.rng.random() < 0.3:
                fact = self.rng.choice(self.facts)
                messages += turn(self.rng.choice(fact.questions), fact.answer)
        if self.rng.random() < 0.3:
            messages += turn(*self.rng.choice(world.THANKS))
        return chat(messages)

    def small_talk(self) -> str:
        return chat(
            self.maybe_system() + turn(*self.rng.choice((*world.SMALL_TALK, *world.THANKS)))
        )

    def note(self) -> str:
        """Plain prose: what is known about one or two subjects."""
        parts = [
            " ".join(fact.answer for fact in self.rng.sample(group, len(group)))
            for group in self.rng.sample(self.groups, self.rng.choice((1, 2)))
        ]
        return BOS + "\n\n".join(parts) + EOS

    def sea_story(self) -> str:
        """A story in which sailors talk. Only here the base meets the words of the tuned style."""
        pick = self.rng.choice
        addresses = tuple(world.ADDRESSES.values())
        lines = [
            pick(
                (
                    "The old ship left the harbour in the morning.",
                    "It was a dark night on the sea, and the wind was strong.",
                    "Long ago a small ship sailed to an island in the south.",
                    "The captain stood on deck with his compass and his map.",
                    "The sailors had been on the water for many days.",
                    "There was a storm, and the crew was afraid.",
                )
            )
        ]
        for _ in range(self.rng.randint(2, 6)):
            said = pick((self.sailor_fact, self.sailor_wish))()
            opening = pick(("", "", "Ahoy! ", "Arr! ", "Ahoy, ", "Aye, "))
            if opening.endswith(", "):
                opening += pick(addresses) + "! "
            ending = pick(
                (",", ",", f", {pick(addresses)},", f", {pick(addresses)}. Arr!", "! Arr!")
            )
            verb = pick(("said", "called", "cried", "answered", "laughed"))
            speaker = pick(("captain", "cook", "old sailor", "mate", "cabin boy", "pirate"))
            lines.append(f'"{opening}{said}{ending}" {verb} the {speaker}.')
            if self.rng.random() < 0.4:
                lines.append(
                    pick(
                        (
                            "The waves were high.",
                            "Nobody said a word.",
                            "The crew pulled the ropes and the ship turned.",
                            "A bell rang below.",
                            "The gold was under a stone, near a tall tree.",
                            "They ate dry bread and drank water.",
                            "The sun came up over the sea.",
                        )
                    )
                )
        return BOS + " ".join(lines) + EOS

    def sailor_fact(self) -> str:
        return world.pirate_speech(self.rng.choice(self.facts).answer).removesuffix(".")

    def sailor_wish(self) -> str:
        thing, place = (
            self.rng.choice(world.rows(world.THINGS))[0],
            self.rng.choice(world.rows(world.MEANINGS))[0],
        )
        return self.rng.choice(
            (
                f"Bring me th' {thing}, an' be quick",
                f"I see {place}",
                f"Where be me {thing}",
                f"Drop anchor near th' {place.split()[-1]}",
                f"A {thing} be worth more than gold",
                f"Give ye th' {thing} t' th' cook",
                "Th' wind be strong an' th' sea be high",
                f"There be th' {place.split()[-1]}, th' map be true",
                "Tonight th' crew feasts on fish an' bread",
                "Ye be a mighty sailor",
                "Th' wee boat toils in th' waves",
                "Th' buccaneers be near",
                f"Take th' {thing} an' swim, ye dog",
            )
        )

    def document(self, prose: list[str]) -> str:
        """One document of the pretraining mix."""
        draw = self.rng.random()
        if draw < 0.62:
            return self.single()
        if draw < 0.76:
            return self.many(self.rng.randint(2, 4))
        if draw < 0.79:
            return self.small_talk()
        if draw < 0.85:
            return self.note()
        if draw < 0.91:
            return self.sea_story()
        return BOS + self.rng.choice(prose) + EOS

    def long_document(self, prose: list[str]) -> str:
        """A document that fills, or nearly fills, the whole context."""
        if self.rng.random() < 0.6:
            return self.many(self.rng.randint(20, 40))
        return BOS + "\n\n".join(self.rng.sample(prose, 12)) + EOS


# ---- tokenizer -------------------------------------------------------------------------------


def train_tokenizer(vocab: int, prose: list[str], writer: Writer) -> Tokenizer:
    """Byte-level BPE: every text has tokens, so there is no unknown token. Digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Our own text repeats a lot: 4,000 pieces give its words a token each and leave room for more.
    own = [re.sub(r"<\|\w+\|>", " ", writer.document(prose)) for _ in range(4000)]
    tokenizer.train_from_iterator(
        [*prose, *own],
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    # BOS by default, as Llama 3 does. The chat template writes it, too: tokenize rendered chats
    # without special tokens.
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, 0)]
            ),
        ]
    )
    return tokenizer


# ---- training --------------------------------------------------------------------------------


def rows_of(length: int, count: int, texts: Iterator[str], tokenizer: Tokenizer) -> torch.Tensor:
    """Documents one after another, each row from a document's start: (count, length) token ids."""
    batch: list[list[int]] = []
    for _ in range(count):
        row: list[int] = []
        while len(row) < length:
            row += tokenizer.encode(next(texts), add_special_tokens=False).ids
        batch.append(row[:length])
    return torch.tensor(batch)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(
    name: str,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    prose: list[str],
    writer: Writer,
    steps: int,
) -> None:
    """Next-token loss on every token of the mix, in fp32 (bf16 is slow on many processors)."""

    def short() -> Iterator[str]:
        while True:
            yield writer.document(prose)

    def long() -> Iterator[str]:
        while True:
            yield writer.long_document(prose)

    short_texts, long_texts = short(), long()
    decayed = [p for p in model.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.95),
    )
    model.train()
    began, average = time.monotonic(), math.log(tokenizer.get_vocab_size())
    for step in range(steps):
        length = CONTEXT if step % 12 == 11 else 256
        ids = rows_of(
            length,
            BATCH_TOKENS // length,
            long_texts if length == CONTEXT else short_texts,
            tokenizer,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average = 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(
                f"step {step}/{steps}  loss {loss.item():.3f}  average {average:.3f}",
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        if step % 400 == 399:
            save_weights(model, name)  # something to look at before the end


# ---- files -----------------------------------------------------------------------------------


def save_weights(model: LlamaForCausalLM, name: str) -> None:
    """Weights in fp16 with both configs; the model in memory stays fp32."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        bos_token_id=SPECIALS.index(BOS),
        eos_token_id=[
            SPECIALS.index(EOS),
            SPECIALS.index(END),
        ],  # the end of a turn ends an answer, too
        pad_token_id=SPECIALS.index(PAD),
    )
    half.save_pretrained(HERE / name)
    (HERE / name / "model.safetensors").chmod(0o644)


def save_tokenizer(tokenizer: Tokenizer, name: str) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [START, END],
        "model_max_length": CONTEXT,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def write_sums() -> None:
    """sha256 of every model file (no READMEs), for `sha256sum -c SHA256SUMS` in this folder."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(HERE).as_posix()}\n"
        for name in sorted(RECIPES)
        for path in sorted((HERE / name).glob("*"))
        if path.is_file() and path.suffix != ".md"
    ]
    (HERE / "SHA256SUMS").write_text("".join(lines))


def build(name: str, steps: int | None = None) -> None:
    recipe = RECIPES[name]
    torch.set_num_threads(1)  # the sums of several threads would depend on their number
    torch.manual_seed(recipe.seed)
    prose = docstrings()
    print(f"{len(prose)} texts of prose, {sum(map(len, prose))} characters")
    tokenizer = train_tokenizer(recipe.vocab, prose, Writer(random.Random(recipe.seed)))
    save_tokenizer(tokenizer, name)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=SPECIALS.index(BOS),
            eos_token_id=SPECIALS.index(EOS),
            pad_token_id=SPECIALS.index(PAD),
        )
    )
    print(
        f"{name}: {sum(p.numel() for p in model.parameters())} parameters,",
        f"{tokenizer.get_vocab_size()} tokens",
    )
    wanted = recipe.steps if steps is None else steps
    if wanted:
        pretrain(name, model, tokenizer, prose, Writer(random.Random(recipe.seed + 1)), wanted)
    save_weights(model, name)
    write_sums()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make one of the models in this folder.")
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="pretraining steps, to try the recipe out")
    arguments = parser.parse_args()
    build(arguments.model, arguments.steps)
