"""What both models are asked at the end, against transformers' own greedy answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.engine.conftest import MakeOrder, Run
from tunery.data.template import ChatTokenizer
from tunery.spec import Evaluation
from worker.engine.answers import likeliest
from worker.protocol import EVALUATION, Checkpointed, Finished, Noted, Train

GRADER: Any = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference }}",
    "operation": "eq",
}
WANTED = Evaluation(grader=GRADER, rows=3, max_tokens=6)


def answered(order: Train) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (order.folder / EVALUATION).read_bytes().splitlines()]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_base_and_published_model_answer_the_prompts_that_their_users_will_send(
    make_order: MakeOrder,
    run: Run,
    rows: list[dict[str, Any]],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likeliest, "PIECE_TOKENS", 7)  # a prompt comes in several pieces
    valid = [row | {"topic": "cows"} for row in rows[:5]]
    # Prompts are rendered for themselves: what of a row is trained makes no difference.
    settings = {"train_on_inputs": True, "quantization": "none", "evaluation": WANTED}
    order = make_order(rows, valid=valid, n_epochs=1, samples=0, **settings)
    reports = run(order)
    found = answered(order)
    assert [row["line"] for row in found] == [1, 2, 3]
    question, answer = rows[0]["messages"]
    item = found[0]["item"]
    assert (found[0]["prompt"], item["reference"]) == (question["content"], answer["content"])
    assert (item["topic"], item["messages"]) == ("cows", [question])

    (result,) = (report.folder for report in reports if isinstance(report, Finished))
    tokenizer = ChatTokenizer(tiny)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    prompts = [
        tokenizer.template.render(
            messages=row["item"]["messages"], add_generation_prompt=True, **tokenizer.special
        )
        for row in found
        if tokenizer.template
    ]
    for name in ("base", "tuned"):
        model = base if name == "base" else PeftModel.from_pretrained(base, result).eval()
        for row, prompt in zip(found, prompts, strict=True):
            ids = tokenizer.tokenizer.encode(str(prompt), add_special_tokens=False).ids
            said = model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=6)[
                0, len(ids) :
            ].tolist()
            ends = tokenizer.control_tokens.ids
            end = next((place for place, token in enumerate(said) if token in ends), len(said))
            assert row[name] == tokenizer.text_of(said[:end])


def test_a_resumed_training_has_the_same_answers(
    make_order: MakeOrder, run: Run, rows: list[dict[str, Any]]
) -> None:
    settings = {"n_epochs": 2, "samples": 0, "validation_split": 0.2, "evaluation": WANTED}
    whole = make_order(rows, **settings)
    reports = run(whole)
    checkpoint = next(each.folder for each in reports if isinstance(each, Checkpointed))
    again = make_order(rows, checkpoint=checkpoint, **settings)
    run(again)
    assert answered(again) == answered(whole)
    assert any(row["base"] != row["tuned"] for row in answered(whole))


def test_rows_that_cannot_be_asked_are_left_out_and_said(
    make_order: MakeOrder, run: Run, rows: list[dict[str, Any]]
) -> None:
    long = [{"role": "user", "content": "word " * 2_000}, *rows[0]["messages"][1:]]
    valid = [rows[0], rows[1] | {"messages": long}, rows[2]]
    order = make_order(
        rows, valid=valid, n_epochs=1, samples=0, train_on_inputs=True, evaluation=WANTED
    )
    reports = run(order)
    assert [row["line"] for row in answered(order)] == [1, 3]
    (told,) = [
        each.message
        for each in reports
        if isinstance(each, Noted) and "Left out of" in each.message
    ]
    assert told.endswith("leaves no room for an answer in the model's context.")
