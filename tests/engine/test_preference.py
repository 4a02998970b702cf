"""Preferences against the formula written out, with PEFT's own adapter switched off and on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.conftest import LOSS_RTOL, PLAN, MakeOrder, Run, same_adapter
from tests.engine.test_step import GRADIENT_RTOL, plain_model, randomize
from tunery.base_model import file_facts
from tunery.data.read import read_rows
from tunery.data.rows import Preference
from tunery.spec import Lora, StartingAdapter
from tunery.spec import Preference as ByPreference
from worker.engine.data.batches import packed
from worker.engine.data.cached import KnownData
from worker.engine.data.rows import Rows
from worker.engine.errors import StopAsked
from worker.engine.model.base import Base, WarmBase
from worker.engine.train import train
from worker.engine.training.objectives.preference import reference_of
from worker.engine.training.prepare import objective_of, read_files
from worker.engine.training.slot import adapted, new_slot, trained_parameters
from worker.engine.training.step import evaluate, read_steps, take_step
from worker.protocol import Checkpointed, Finished, Noted, Report, Stepped, Train

BETA = 0.3


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs(count: int) -> list[dict[str, Any]]:
    """Of unequal length, and the preferred answer is now the longer, now the shorter one."""
    return [
        {
            "input": {"messages": [said("user", "Tell me of the sea. " * (1 + index % 3))]},
            "preferred_output": [said("assistant", "It has waves. " * (1 + index % 4))],
            "non_preferred_output": [said("assistant", f"No {index}. " * (1 + index % 2))],
        }
        for index in range(count)
    ]


@pytest.fixture
def order(make_order: MakeOrder) -> Train:
    rows = pairs(6)
    for row in rows[::2]:  # so that not all margins have one sign
        row["preferred_output"], row["non_preferred_output"] = (
            row["non_preferred_output"],
            row["preferred_output"],
        )
    # No gradient is clipped, so that the ones seen are the raw ones.
    return make_order(
        rows,
        objective=ByPreference(beta=BETA),
        lora=Lora(r=4, alpha=8, dropout=0.0),
        max_grad_norm=1e9,
    )


def rows_of(order: Train, base: Base) -> Rows:
    objective = objective_of(order.spec, base.folder)
    data, _ = read_files(order, objective, base.folder, KnownData(), lambda: None)
    return data.rows


def answers(base: Base, order: Train) -> list[list[tuple[Tensor, int]]]:
    """Of each pair, for each answer, the ids of the whole chat and where its answer begins; by the
    chat template alone.
    """
    tokenizer = base.folder.tokenizer
    template = tokenizer.template
    assert template is not None
    found = []
    for row in read_rows(order.training_file):
        assert isinstance(row, Preference)
        asked = [{"role": message.role, "content": message.content} for message in row.input]
        start = template.render(messages=asked, add_generation_prompt=True, **tokenizer.special)
        pair = []
        for answer in (row.preferred, row.non_preferred):
            text = start + answer[0].content + "<|im_end|>"
            ids = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
            prompt = tokenizer.tokenizer.encode(start, add_special_tokens=False).ids
            assert ids[: len(prompt)] == prompt
            pair.append((torch.tensor(ids), len(prompt)))
        found.append(pair)
    return found


def log_probability(model: PeftModel, ids: Tensor, start: int) -> Tensor:
    """Of the answer from `start`: one sequence at a time, no packing."""
    logits = model(input_ids=ids[None].to(model.device)).logits[0].float()
    chances = torch.log_softmax(logits, dim=1)
    return torch.stack([chances[at - 1, ids[at]] for at in range(start, len(ids))]).sum()


def losses_of(model: PeftModel, pairs: list[list[tuple[Tensor, int]]]) -> tuple[Tensor, Tensor]:
    """(losses, margins) of pairs, as TRL has them for `sigmoid`."""
    losses, margins = [], []
    for (chosen, chosen_start), (rejected, rejected_start) in pairs:
        with torch.no_grad(), model.disable_adapter():
            ref_chosen = log_probability(model, chosen, chosen_start)
            ref_rejected = log_probability(model, rejected, rejected_start)
        chosen_ratio = log_probability(model, chosen, chosen_start) - ref_chosen
        rejected_ratio = log_probability(model, rejected, rejected_start) - ref_rejected
        losses.append(-torch.nn.functional.logsigmoid(BETA * (chosen_ratio - rejected_ratio)))
        margins.append(BETA * (chosen_ratio - rejected_ratio).detach())
    return torch.stack(losses), torch.stack(margins)


@pytest.mark.parametrize(
    "cut", [{"checkpointing": True}, {"micro_tokens": 150}, {"micro_tokens": 1}]
)
def test_loss_and_gradients_equal_the_formula_written_out(
    bases: WarmBase, base: Base, order: Train, cut: dict[str, Any]
) -> None:
    spec, plan = order.spec, PLAN.model_copy(update=cut)
    plain = plain_model(base, spec, "nf4", double_quant=True)
    losses, margins = losses_of(plain, answers(base, order))
    torch.autograd.backward(losses.mean())
    objective, rows = objective_of(spec, base.folder), rows_of(order, base)
    gradients: dict[str, Tensor] = {}
    with adapted(bases.load(base.folder, plan).model, spec) as model:
        slot = new_slot(model, spec, plan)
        rows = rows.with_reference(reference_of(slot, rows, spec, lambda: None))
        randomize(model)
        checked = evaluate(slot, objective, rows, spec, lambda: None).values

        def keep(*_: object) -> None:
            for name, parameter in trained_parameters(model).items():
                assert parameter.grad is not None
                gradients[name] = parameter.grad.clone()

        slot.optimizer.register_step_pre_hook(keep)
        micro_steps: list[int] = []
        take_step(slot, objective, rows, 1e-2, spec, lambda: micro_steps.append(1))
        [(metrics, tokens)] = read_steps(slot, objective, 1, lambda _: None)
    assert len(micro_steps) == len(list(packed(rows, plan.micro_tokens)))
    assert tokens == sum(len(ids) - start for pair in answers(base, order) for ids, start in pair)
    assert metrics.train_loss == pytest.approx(losses.mean().item(), rel=10 * LOSS_RTOL)
    assert metrics.train_reward_margin == pytest.approx(margins.mean().item(), rel=1e-4)
    assert metrics.train_reward_accuracy == pytest.approx((margins > 0).float().mean().item())
    assert 0 < (margins > 0).sum() < len(margins)
    assert checked["valid_loss"] == pytest.approx(metrics.train_loss, rel=10 * LOSS_RTOL)
    assert checked["valid_reward_margin"] == pytest.approx(metrics.train_reward_margin, rel=1e-4)
    for name, parameter in trained_parameters(plain).items():
        wanted = parameter.grad
        assert wanted is not None
        assert gradients[name].abs().max() > 1e-5
        assert (gradients[name] - wanted).norm() < GRADIENT_RTOL * wanted.norm(), name


def test_a_pair_that_an_answer_of_is_cut_off_whole_is_left_out(
    base: Base, make_order: MakeOrder
) -> None:
    long, cut, fits = pairs(3)
    long["input"]["messages"][0]["content"] = "word " * 60
    cut["preferred_output"] = [said("assistant", "waves " * 60)]
    limits = {"max_length": 64, "max_lost_share": 0.5}
    order = make_order([long, cut, fits], objective=ByPreference(), **limits)
    objective = objective_of(order.spec, base.folder)
    data, _ = read_files(order, objective, base.folder, KnownData(), lambda: None)
    assert ([row.line for row in data.rows], data.cut, data.dropped) == ([2, 3], [2], [1])
    assert data.rows[0].documents[0] == 64


def noted(reports: list[Report]) -> list[Noted]:
    return [line for line in reports if isinstance(line, Noted)]


def stepped(reports: list[Report]) -> list[Stepped]:
    return [line for line in reports if isinstance(line, Stepped)]


def published(reports: list[Report]) -> Path:
    last = reports[-1]
    assert isinstance(last, Finished)
    return last.folder


def test_it_begins_at_ln_2_and_learns_what_is_preferred(run: Run, make_order: MakeOrder) -> None:
    order = make_order(
        pairs(8), valid=pairs(3), objective=ByPreference(), lora=Lora(r=4, dropout=0.3)
    )
    reports = run(order)
    first, *_, last = [line.metrics for line in stepped(reports)]
    assert first.train_loss == pytest.approx(math.log(2), abs=1e-5)
    assert first.train_reward_margin == pytest.approx(0, abs=1e-4)
    assert last.train_loss is not None
    assert last.train_loss < 0.6
    assert last.valid_loss is not None
    assert last.valid_loss < 0.65
    assert last.valid_reward_accuracy == 1
    assert last.train_mean_token_accuracy is None
    words = " ".join(line.message for line in noted(reports))
    assert "of them in the answers that are compared" in words
    assert words.count("Reference: the base model gives the answers") == 2
    assert "Validation loss of" not in words
    columns = (published(reports) / "metrics.csv").read_text().splitlines()[0]
    assert columns == (
        "step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy,"
        "train_reward_accuracy,train_reward_margin,valid_reward_accuracy,valid_reward_margin,"
        "learning_rate,grad_norm,epoch"
    )
    card = (published(reports) / "README.md").read_text()
    assert "preferences by DPO, beta 0.1" in card
    assert "0.6931 before" in card


def test_a_training_stopped_and_resumed_compares_with_what_it_began_with(
    run: Run, bases: WarmBase, make_order: MakeOrder
) -> None:
    """Which is an earlier adapter without dropout: as long as nothing moves, all is ln 2."""
    settings = {"objective": ByPreference(), "lora": Lora(r=4, alpha=8, dropout=0.3)}
    earlier = published(run(make_order(pairs(4), n_epochs=1, **settings)))
    sha256 = file_facts(earlier / "adapter_model.safetensors").sha256
    settings["adapter"] = StartingAdapter(model="ft:earlier", sha256=sha256)

    def order(checkpoint: Path | None = None) -> Train:
        made = make_order(pairs(8), valid=pairs(3), checkpoint=checkpoint, **settings)
        return made.model_copy(update={"adapter": earlier})

    still = order()
    spec = still.spec.model_copy(update={"learning_rate": 1e-30})
    last = stepped(run(still.model_copy(update={"spec": spec})))[-1].metrics
    assert last.train_loss != pytest.approx(math.log(2), abs=1e-5)
    assert last.valid_loss == pytest.approx(math.log(2), abs=1e-5)
    whole = run(order())
    reports: list[Report] = []

    def stop() -> None:
        if len(stepped(reports)) == 3:
            raise StopAsked(checkpoint=True)

    with pytest.raises(StopAsked):
        train(order(), bases, reports.append, stop)
    kept = reports[-1]
    assert isinstance(kept, Checkpointed)
    reference = load_file(kept.folder / "reference.safetensors")
    assert {name: tensor.shape for name, tensor in reference.items()} == {
        "training": (8, 2),
        "validation": (3, 2),
    }
    resumed = run(order(kept.folder))
    assert "Reference" not in " ".join(line.message for line in noted(resumed))
    ones, others = (
        (published(each) / "adapter_model.safetensors").read_bytes() for each in (whole, resumed)
    )
    assert same_adapter(ones, others)
    assert stepped(whole)[-1].metrics == stepped(resumed)[-1].metrics
