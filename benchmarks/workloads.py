"""What the arms train on: the same rows, in the same order, cut into the same steps."""

import hashlib
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunery.base_model import files_of
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer, Example
from tunery.spec import DataFile, TrainingSpec
from worker.engine.data.batches import epoch_order
from worker.protocol import Train

SEED = 1
MAX_LENGTH = 1024  # the context of both bases
TEXT = (
    "a and are as at be boat by calm cold day deep every fish for from good harbour have he her "
    "his in is it light long many morning near net night no not of old on one or people rope sail "
    "salt sea she ship shore small so some still storm that the their there they this tide to two "
    "under up very was water wave we when where which white wind with you young"
)


@dataclass(frozen=True)
class Workload:
    """`batch_size` counts rows per step. `packs`: into how many packed rows a step is cut for
    transformers and TRL at their best, as `--only tune` shows.
    """

    name: str
    base: Path
    file: Path
    batch_size: int
    packs: int = 1
    n_epochs: int = 1
    chat_template: str | None = None

    @property
    def examples(self) -> list[Example]:
        """In the order of the file."""
        tokenizer, examples = ChatTokenizer(self.base, self.chat_template), []
        for row in read_rows(self.file):
            if isinstance(row, Fault):
                raise TypeError(f"{self.file}: {row}")
            examples += tokenizer.encode(row, MAX_LENGTH)
        return examples

    @property
    def steps(self) -> list[list[Example]]:
        """In the order they are trained."""
        rows, steps = self.examples, list[list[Example]]()
        for epoch in range(self.n_epochs):
            order = epoch_order(len(rows), SEED, epoch)
            steps += [
                [rows[number] for number in order[at : at + self.batch_size]]
                for at in range(0, len(order), self.batch_size)
            ]
        return steps

    @property
    def described(self) -> str:
        rows = self.examples
        lengths = sorted(len(row.ids) for row in rows)
        trained = sum(row.trained_tokens for row in rows) / sum(lengths)
        return (
            f"{len(rows)} rows of {lengths[0]} to {lengths[-1]} tokens, median "
            f"{statistics.median(lengths):.0f}, {trained:.0%} of them in the loss; "
            f"optimizer steps: {len(self.steps)}, rows a step: {self.batch_size}."
        )

    def order(self, folder: Path, learning_rate: float = 5e-4) -> Train:
        """What the engine is told; `folder` is made for this attempt."""
        folder.mkdir()
        (folder / "attempt").mkdir()
        (folder / "cache").mkdir()
        content = self.file.read_bytes()
        spec = TrainingSpec(
            base_model="bench",
            base_revision="1",
            training_file=DataFile(
                id="file",
                sha256=hashlib.sha256(content).hexdigest(),
                rows=len(content.splitlines()),
            ),
            seed=SEED,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            warmup_ratio=0,
            max_length=MAX_LENGTH,
            chat_template=self.chat_template,
        )
        return Train(
            job_id=folder.name,
            token=1,
            project_id="bench",
            spec=spec,
            base_folder=self.base,
            base_files=files_of(self.base),
            training_file=self.file,
            validation_file=None,
            checkpoint=None,
            checkpoint_seconds=1e9,
            folder=folder / "attempt",
            cache=folder / "cache",
        )

    def script(self, folder: Path, initial: Path) -> Path:
        """What the other arms are told: a JSON file in `folder`."""
        spec = self.order(folder).spec
        assert spec.lora  # noqa: S101
        path = folder / "training.json"
        training = {
            "base": str(self.base),
            "initial": str(initial),
            "out": str(folder / "adapter"),
            "lora": {"r": spec.lora.r, "lora_alpha": spec.lora.alpha},
            "batch_size": spec.batch_size,
            "learning_rate": spec.learning_rate,
            "weight_decay": spec.weight_decay,
            "max_grad_norm": spec.max_grad_norm,
            "steps": [[labelled(example) for example in step] for step in self.steps],
        }
        path.write_text(json.dumps(training))
        return path


def labelled(example: Example) -> dict[str, list[int]]:
    pairs = zip(example.ids, example.mask, strict=True)
    return {
        "input_ids": example.ids,
        "labels": [token if trained else -100 for token, trained in pairs],
    }


def short_chats(rows: int, seed: int, spread: float = 0.8) -> Iterator[str]:
    """Lines of a median of about 60 tokens. The lengths of questions and answers are log-normal: a
    spread of 0.8 has a tail of several hundred tokens.
    """
    numbers, words = random.Random(seed), TEXT.split()

    def said(median: float) -> str:
        count = max(2, round(median * numbers.lognormvariate(0, spread)))
        return " ".join(numbers.choices(words, k=count))

    for _ in range(rows):
        yield chat(said(10), said(25))


def chat(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


def first_lines(path: Path, lines: int) -> Iterator[str]:
    with path.open() as file:
        for _, line in zip(range(lines), file, strict=False):
            yield line.rstrip("\n")


def write_lines(path: Path, lines: Iterator[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path
