"""How fast the engine answers, beside transformers' `generate` with PEFT, and what answers cost a
training: `make bench-answers`.

Arms take turns in one process, on one thread of a CPU, or on the GPU that is there. All answers
have the same length. Figures are medians (least to most), in CPU seconds, with a GPU in seconds.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
import warnings
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tunery.base_model import files_of
from tunery.completions import Sampling, TextPrompt
from tunery.plan.memory import Plan
from tunery.spec import DataFile, Lora, TrainingSpec
from worker.protocol import Complete, Entered, Report, Said, Train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, PeftModel, get_peft_model

    from worker.engine.answers.answering import Answers
    from worker.engine.model.base import WarmBase, read
    from worker.engine.proof.family import verdict_on
    from worker.engine.train import train
    from worker.engine.training.slot import as_named

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = Path(__file__).parents[1] / "models" / "demo"
ADAPTERS, ROWS, PROMPT, SAID, REPEATS, STEPS = 4, 8, 48, 64, 7, 400
TRAININGS = 3
NUMBERS = count()
# On a CPU all is computed on one thread.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class Ours:
    """Our engine's answers on a warm base."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies, self.warm = folder, copies, WarmBase()
        opened = self.warm.open(folder, "r1", copies, files_of(folder))
        plan = Plan(
            quantization="none",
            dequantized=False,
            checkpointing=False,
            micro_tokens=1,
            peak_bytes=0,
        )
        self.warm.load(opened, plan, verdict_on(opened))
        self.never = sorted(opened.tokenizer.control_tokens.ids)
        self.firsts: dict[str, float] = {}
        self.answers = Answers(self.warm, self.hear, lambda: None, 0.05)

    def hear(self, report: Report) -> None:
        if isinstance(report, Said):
            self.firsts.setdefault(report.completion_id, CLOCK())

    def ask(self, ids: list[int], adapter: Path | None, said: int = SAID) -> None:
        self.answers.take(
            Complete(
                completion_id=f"cmpl-{next(NUMBERS)}",
                token=1,
                base_model="bench",
                base_revision="r1",
                base_folder=self.folder,
                base_files=files_of(self.folder),
                cache=self.copies,
                quantization=None,
                double_quant=True,
                adapter=adapter,
                chat_template=None,
                prompt=TextPrompt(ids=ids),
                sampling=Sampling(
                    max_tokens=said, temperature=0, logit_bias=dict.fromkeys(self.never, -100.0)
                ),
            )
        )

    def answer(self, prompts: list[list[int]], adapters: list[Path]) -> tuple[float, float]:
        """(seconds to the last one's first token, tokens a second)."""
        self.firsts.clear()
        for number, ids in enumerate(prompts):
            self.ask(ids, adapters[number % len(adapters)])
        began = CLOCK()
        while self.answers.busy:
            self.answers.work(lambda: True)
        ended = CLOCK()
        return max(self.firsts.values()) - began, len(prompts) * SAID / (ended - began)


class Theirs:
    """Transformers' `generate`, with PEFT's adapters: those of one adapter in one batch, one
    adapter after the other. What comes first is the first token of the last batch.
    """

    def __init__(self, folder: Path, adapters: list[Path], never: list[int]) -> None:
        with as_named():
            self.model = PeftModel.from_pretrained(read(folder), str(adapters[0]), "0")
            for number, adapter in enumerate(adapters[1:], start=1):
                self.model.load_adapter(str(adapter), str(number))
        self.model.eval()
        self.adapters, self.never = adapters, never

    def answer(self, prompts: list[list[int]], adapters: list[Path]) -> tuple[float, float]:
        began, first = CLOCK(), 0.0

        class First:
            """It is first given the prompt."""

            given = 0

            def put(self, _: object) -> None:
                nonlocal first
                self.given += 1
                first = first or (CLOCK() if self.given > 1 else 0.0)

            def end(self) -> None: ...

        for number in range(min(len(adapters), len(prompts))):
            self.model.set_adapter(str(number))
            ids = torch.tensor(prompts[number :: len(adapters)], device=self.model.device)
            first = 0.0
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=SAID,
                max_new_tokens=SAID,
                suppress_tokens=self.never,
                streamer=First() if len(ids) == 1 else None,
            )
        ended = CLOCK()
        return (first and first - began), len(prompts) * SAID / (ended - began)


def adapters_for(ours: Ours, parent: Path) -> list[Path]:
    made = []
    assert ours.warm.base  # noqa: S101
    for number in range(ADAPTERS):
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        with as_named():
            model = get_peft_model(ours.warm.base.model, config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.02)
        made.append(parent / f"adapter-{number}")
        model.save_pretrained(str(made[-1]))
        model.unload()
    return made


def training(folder: Path, parent: Path) -> Train:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Tell me about the sea. " * (1 + number % 6)},
                {"role": "assistant", "content": "The sea is deep and wide. " * (1 + number % 5)},
            ]
        }
        for number in range(4 * STEPS)
    ]
    path = parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    number = next(NUMBERS)
    (parent / f"attempt-{number}").mkdir()
    spec = TrainingSpec(
        base_model="bench",
        base_revision="r1",
        training_file=DataFile(id="file-1", sha256=digest, rows=len(rows)),
        validation_file=None,
        seed=1,
        n_epochs=1,
        batch_size=4,
        learning_rate=1e-4,
        max_length=512,
        quantization="none",
        lora=Lora(r=16, alpha=16),
    )
    return Train(
        job_id=f"job-{number}",
        token=1,
        project_id="project",
        spec=spec,
        base_folder=folder,
        base_files=files_of(folder),
        training_file=path,
        validation_file=None,
        checkpoint=None,
        checkpoint_seconds=3600,
        folder=parent / f"attempt-{number}",
        cache=parent,
    )


def trained(ours: Ours, order: Train, adapters: list[Path], prompt: list[int] | None) -> float:
    """CPU seconds (a GPU's: seconds) of its steps, with somebody asking all the time if there is a
    prompt.
    """
    marks: list[float] = []
    steps = False

    def report(line: Report) -> None:
        nonlocal steps
        if isinstance(line, Entered):
            steps = line.phase == "training"
            marks.append(CLOCK())

    def between() -> None:
        if steps and prompt:
            while len(ours.answers.asked()) < ROWS:
                ours.ask(prompt, adapters[next(NUMBERS) % len(adapters)])
            ours.answers.between_steps()

    train(order, ours.warm, report, between)
    ours.answers.keep(lambda _: False)
    return marks[-1] - marks[-2]


def spread(values: list[float], form: str) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--base", type=Path, default=DEMO, help="another base model's folder")
    asked = options.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        parent = Path(place)
        ours = Ours(asked.base, parent)
        adapters = adapters_for(ours, parent)
        theirs = Theirs(asked.base, adapters, ours.never)
        draw = torch.Generator().manual_seed(1)
        prompts = [torch.randint(100, 900, (PROMPT,), generator=draw).tolist() for _ in range(ROWS)]
        arms: dict[str, Callable[..., tuple[float, float]]] = {
            "Tunery": ours.answer,
            "transformers and PEFT": theirs.answer,
        }
        print("| asked at once | arm | first token, s | tokens a second |")
        print("|---|---|---|---|")
        for rows, several in ((1, 1), (ROWS, ADAPTERS)):
            seen: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
            for turn in range(REPEATS + 1):
                for arm, answer in arms.items():
                    found = answer(prompts[:rows], adapters[:several])
                    if turn:  # the first one warms up
                        seen[arm].append(found)
            for arm, figures in seen.items():
                firsts = [first for first, _ in figures if first]
                first = spread(firsts, ".3f") if firsts else "not told"
                rate = spread([rate for _, rate in figures], ".0f")
                print(f"| {rows}, of {several} adapters | {arm} | {first} | {rate} |", flush=True)
        del theirs
        times: dict[str, list[float]] = {"alone": [], "with answers": []}
        for turn in range(TRAININGS + 1):
            for arm, given in (("alone", None), ("with answers", prompts[0])):
                order = training(asked.base, parent)
                took = trained(ours, order, adapters, given)
                if turn:
                    times[arm].append(took)
        ratios = [b / a for a, b in zip(times["alone"], times["with answers"], strict=True)]
        print(
            f"\nA training of {STEPS} steps, asked by {ROWS} all the time: {spread(ratios, '.3f')}"
        )
        print(
            f"times its {spread(times['alone'], '.2f')} s alone, at a share of 0.05 and 1 s more."
        )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
