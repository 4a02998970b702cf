"""`proof.json`, against transformers and PEFT on the folders that users download."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.engine.conftest import MakeOrder, Run
from tunery.data.template import ChatTokenizer
from tunery.proof.kept import PROOF, Proof
from tunery.spec import Lora
from worker.engine.model.base import WarmBase
from worker.engine.train import train
from worker.protocol import Checkpointed, Finished, Report, Train

LONG = {"prompt": "Once upon a time there was a sea. " * 20, "completion": " It was blue." * 60}


def result_of(reports: list[Report]) -> Path:
    return next(report.folder for report in reports if isinstance(report, Finished))


def proof_in(folder: Path) -> Proof:
    return Proof.model_validate_json((folder / PROOF).read_text())


@torch.no_grad()
def logprobs(model: PreTrainedModel | PeftModel, ids: list[int]) -> torch.Tensor:
    """Of each token but the first."""
    at = torch.tensor([ids])
    chances = model.eval()(input_ids=at).logits[0, :-1].float().log_softmax(dim=1)
    found: torch.Tensor = chances.gather(1, at[0, 1:, None])[:, 0]
    return found


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("lora", [Lora(r=4, alpha=8, dropout=0.1), None])
def test_a_result_has_what_base_and_tuned_model_make_of_held_out_rows(
    make_order: MakeOrder, run: Run, rows: list[dict[str, Any]], tiny: Path, lora: Lora | None
) -> None:
    valid = [*rows[:4], LONG]
    settings = {"lora": lora, "quantization": "none", "max_length": 512, "n_epochs": 6}
    reports = run(make_order(rows, valid=valid, **settings))
    folder = result_of(reports)
    proof = proof_in(folder)
    assert [row.line for row in proof.rows] == [1, 2, 3, 4, 5]
    assert proof.held_out
    base = AutoModelForCausalLM.from_pretrained(tiny)
    tuned: Any = AutoModelForCausalLM.from_pretrained(folder if lora is None else tiny)
    if lora:
        tuned = PeftModel.from_pretrained(tuned, folder)
    for row in proof.rows:
        for model, kept in ((base, row.base), (tuned, row.tuned)):
            expected = logprobs(model, row.ids).tolist()
            assert kept[0] is None
            assert kept[1:] == pytest.approx(expected, abs=1e-3)
        assert row.trained
        assert all(fork.base != fork.tuned for fork in row.forks)
    assert sum(len(row.forks) for row in proof.rows)
    rendered = proof.rows[0].rendering
    assert rendered
    assert rendered.messages == rows[0]["messages"][:1]
    assert rendered.ids == proof.rows[0].ids[: len(rendered.ids)]
    assert ChatTokenizer(tiny).text_of(rendered.ids) == rendered.text
    assert proof.rows[-1].rendering is None

    checkpoint = next(r.folder for r in reports if isinstance(r, Checkpointed))
    resumed = result_of(run(make_order(rows, valid=valid, checkpoint=checkpoint, **settings)))
    assert proof_in(resumed) == proof


def test_without_validation_rows_the_proof_is_of_training_rows_and_of_pairs_the_preferred(
    make_order: MakeOrder, bases: WarmBase, tiny: Path
) -> None:
    def pair(number: int) -> dict[str, Any]:
        said = (f"Yes, {number} times.", "No.")
        first, second = ([{"role": "assistant", "content": text}] for text in said)
        asked = {"messages": [{"role": "user", "content": "Is it so?"}]}
        return {"input": asked, "preferred_output": first, "non_preferred_output": second}

    reports: list[Report] = []
    order: Train = make_order(
        [pair(number) for number in range(4)], objective={"type": "dpo", "beta": 0.1}
    )
    train(order, bases, reports.append, lambda: None)
    proof = proof_in(result_of(reports))
    tokenizer = ChatTokenizer(tiny)
    assert not proof.held_out
    assert len(proof.rows) == 4
    assert "Yes, 2 times." in tokenizer.text_of(proof.rows[2].ids)
    assert "No." not in tokenizer.text_of(proof.rows[2].ids)
    assert proof.rows[2].rendering
