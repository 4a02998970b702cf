"""What is said of held-out rows, against transformers' own greedy answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.conftest import MakeOrder, Run
from tunery.data.template import ChatTokenizer
from tunery.measured import Metrics, Samples
from worker.engine import samples
from worker.engine.answers.likeliest import likeliest
from worker.engine.data.rows import TokenRow
from worker.engine.errors import StopAsked
from worker.engine.model.base import WarmBase
from worker.engine.samples import parted
from worker.engine.train import train
from worker.protocol import Checkpointed, Noted, Report, Stepped


def sets_of(reports: list[Report]) -> list[Samples]:
    return [r.samples for r in reports if isinstance(r, Checkpointed) and r.samples]


def metrics_of(reports: list[Report]) -> list[Metrics]:
    return [report.metrics for report in reports if isinstance(report, Stepped)]


def test_at_each_epochs_end_base_and_tuned_model_answer_the_first_held_out_rows(
    make_order: MakeOrder,
    run: Run,
    rows: list[dict[str, Any]],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "ANSWER_TOKENS", 8)
    monkeypatch.setattr(samples, "EXTREMES", 2)
    settings = {"valid": rows[:5], "samples": 2, "quantization": "none", "learning_rate": 3e-3}
    order = make_order(rows, n_epochs=2, **settings)
    reports = run(order)
    first, last = sets_of(reports)
    assert [answer.line for answer in last.answers] == [1, 2]
    assert last.answers[0].expected == rows[0]["messages"][1]["content"]
    assert rows[0]["messages"][0]["content"] in last.answers[0].prompt
    assert [a.base for a in first.answers] == [a.base for a in last.answers]

    tokenizer = ChatTokenizer(tiny)
    base = AutoModelForCausalLM.from_pretrained(tiny).eval()
    for answer in last.answers:
        prompt = tokenizer.tokenizer.encode(answer.prompt, add_special_tokens=False).ids
        said = base.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)
        assert answer.base == tokenizer.text_of(said[0, len(prompt) :].tolist())

    best, worst = ([row.loss for row in some] for some in (last.best, last.worst))
    assert best == sorted(best)
    assert worst == sorted(worst, reverse=True)
    assert max(best) <= min(worst)
    assert len({row.line for row in (*last.best, *last.worst)}) == 4
    assert all(row.loss < row.base_loss for row in last.best)

    checkpoint = next(r.folder for r in reports if isinstance(r, Checkpointed))
    (resumed,) = sets_of(run(make_order(rows, n_epochs=2, checkpoint=checkpoint, **settings)))
    assert resumed == last


def test_stopped_while_it_answers_a_training_loses_neither_answers_nor_metrics(
    make_order: MakeOrder,
    run: Run,
    bases: WarmBase,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samples, "ANSWER_TOKENS", 4)
    settings = {"valid": rows[:2], "samples": 1, "n_epochs": 1, "load_best_model_at_end": True}
    whole = run(make_order(rows, **settings))
    asked = []

    def stop_at_the_second(*about: Any) -> list[list[int]]:
        asked.append(about)
        if len(asked) == 2:  # the first is what the base model says
            raise StopAsked(checkpoint=True)
        return likeliest(*about)

    reports: list[Report] = []
    monkeypatch.setattr(samples, "likeliest", stop_at_the_second)
    with pytest.raises(StopAsked):
        train(make_order(rows, **settings), bases, reports.append, lambda: None)
    last = reports[-1]
    assert isinstance(last, Checkpointed)
    reports += run(make_order(rows, checkpoint=last.folder, **settings))
    for each in (sets_of, metrics_of):
        assert each(reports) == each(whole)


def test_a_run_that_made_the_model_worse_says_so(make_order: MakeOrder, run: Run) -> None:
    rows, others = ([{"prompt": "Say it.", "completion": letter * 40}] for letter in (" a", " b"))
    notes = [
        report
        for report in run(make_order(rows * 4, valid=others, n_epochs=20))
        if isinstance(report, Noted)
    ]
    assert "made the model worse on the validation file" in notes[-1].message
    assert notes[-1].level == "warn"


def test_a_text_is_given_a_part_of_and_a_chat_all_before_its_last_answer() -> None:
    ids = torch.arange(10, 20)
    chat = TokenRow(1, ids, torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 1, 0]).bool())
    text = TokenRow(1, ids, torch.tensor([0, *[1] * 9]).bool())
    pair = TokenRow(1, ids, torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 1]).bool(), second=5)
    found = [(len(prompt), answer.tolist()) for prompt, answer in map(parted, (chat, text, pair))]
    assert found == [(7, [17, 18]), (5, [15, 16, 17, 18, 19]), (2, [12, 13])]
