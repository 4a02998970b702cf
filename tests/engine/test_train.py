"""The loop's arithmetic against plain references, in fp32 on CPU."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tunery.messages import Metrics
from tunery.spec import Lora, TrainingSpec
from worker.engine import data
from worker.engine.base import Base
from worker.engine.data import Batch, TokenRow, epoch_order
from worker.engine.errors import Untrainable
from worker.engine.slot import adapted, adapter_parameters, new_slot
from worker.engine.train import evaluate, learning_rate, score, take_step
from worker.protocol import Noted, Report, Started, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]


def go_on() -> None:
    """Nobody asks to stop."""


@pytest.fixture
def spec(make_order: MakeOrder, rows: list[dict[str, Any]]) -> TrainingSpec:
    # No gradient is clipped, so that the ones seen are the raw ones.
    return make_order(rows, lora=Lora(r=4, alpha=8), max_grad_norm=1e9).spec


@pytest.fixture
def batch() -> list[TokenRow]:
    """Six rows of unequal length, each trained on another part of its tokens."""
    numbers = torch.Generator().manual_seed(1)
    made = []
    for line, length in enumerate((9, 30, 17, 5, 24, 30), start=1):
        ids = torch.randint(5, 1000, (length,), generator=numbers, dtype=torch.int32)
        trained = torch.rand(length, generator=numbers) < line / 7
        trained[-1] = True
        made.append(TokenRow(line, ids, trained))
    return made


def randomize(model: PeftModel) -> None:
    """A new adapter's B is zero, and so would be the gradient of A."""
    numbers = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.1)


def step_and_gradients(
    base: Base, spec: TrainingSpec, rows: list[TokenRow], stop_if_asked: Callable[[], None] = go_on
) -> tuple[Metrics, dict[str, Tensor]]:
    gradients: dict[str, Tensor] = {}
    with adapted(base.model, spec) as model:
        randomize(model)
        slot = new_slot(model, spec)

        def keep(*_: object) -> None:
            for name, parameter in adapter_parameters(model).items():
                assert parameter.grad is not None
                gradients[name] = parameter.grad.clone()

        slot.optimizer.register_step_pre_hook(keep)
        return take_step(slot, rows, spec, 10, stop_if_asked), gradients


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_loss_and_gradients_equal_plain_transformers_and_peft(
    base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=torch.float32,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.float32,
            ),
        ),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    randomize(model)
    model.train()
    nll, tokens, correct = torch.zeros(()), 0, 0
    for row in batch:  # one at a time: no padding, no mask
        ids = row.ids.long()
        logits = model(input_ids=ids[None]).logits[0]
        for position in range(1, len(ids)):
            if row.trained[position]:
                nll = nll - torch.log_softmax(logits[position - 1], dim=0)[ids[position]]
                correct += int(logits[position - 1].argmax() == ids[position])
                tokens += 1
    torch.autograd.backward(nll / tokens)

    metrics, gradients = step_and_gradients(base, spec, batch)

    assert metrics.train_loss == pytest.approx(nll.item() / tokens, rel=1e-6)
    assert metrics.train_mean_token_accuracy == pytest.approx(correct / tokens)
    expected = adapter_parameters(model)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 2 * 7 * 2  # A and B of seven layers in each of two blocks
    for name, gradient in gradients.items():
        wanted = expected[name].grad
        assert wanted is not None
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_cutting_a_step_into_micro_steps_does_not_change_it(
    base: Base, spec: TrainingSpec, batch: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole, whole_gradients = step_and_gradients(base, spec, batch, lambda: asked.append(1))
    assert len(asked) == 1
    monkeypatch.setattr(data, "MICRO_TOKENS", 1)
    asked.clear()
    cut, cut_gradients = step_and_gradients(base, spec, batch, lambda: asked.append(1))
    assert len(asked) == len(batch)
    assert cut.train_loss == pytest.approx(whole.train_loss, rel=1e-6)
    assert cut.train_mean_token_accuracy == whole.train_mean_token_accuracy
    for name, gradient in cut_gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-4, atol=1e-7)


def test_padding_does_not_change_the_loss(
    base: Base, spec: TrainingSpec, batch: list[TokenRow]
) -> None:
    with adapted(base.model, spec) as model, torch.no_grad():
        randomize(model)
        padded = Batch.of(batch, model.device)
        together, _ = score(model, padded)
        alone = sum(score(model, Batch.of([row], model.device))[0].item() for row in batch)
        assert together.item() == pytest.approx(alone, rel=1e-6)
        other = padded.ids.masked_fill(padded.attention == 0, 77)
        filled = Batch(other, padded.attention, padded.positions, padded.labels)
        assert torch.equal(score(model, filled)[0], together)


def test_validation_loss_is_summed_nll_over_trained_tokens_with_dropout_off(
    base: Base, make_order: MakeOrder, rows: list[dict[str, Any]], batch: list[TokenRow]
) -> None:
    spec = make_order(rows, lora=Lora(r=4, alpha=8, dropout=0.5)).spec
    with adapted(base.model, spec) as model:
        randomize(model)
        take_step(new_slot(model, spec), batch, spec, 10, go_on)  # leaves it in train mode
        loss, accuracy = evaluate(model, batch, go_on)
        assert (loss, accuracy) == evaluate(model, batch, go_on)
        nll, correct, tokens = 0.0, 0, 0
        with torch.no_grad():
            for row in batch:
                chances = torch.log_softmax(model(input_ids=row.ids.long()[None]).logits[0], dim=1)
                for position in torch.nonzero(row.trained[1:]).flatten().tolist():
                    target = int(row.ids[position + 1])
                    nll -= chances[position, target].item()
                    correct += int(chances[position].argmax() == target)
                    tokens += 1
    assert loss == pytest.approx(nll / tokens, rel=1e-6)
    assert accuracy == correct / tokens


def test_dropout_differs_by_step_and_micro_step_and_by_nothing_else(
    base: Base,
    make_order: MakeOrder,
    rows: list[dict[str, Any]],
    batch: list[TokenRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "MICRO_TOKENS", 1)
    spec = make_order(rows, lora=Lora(r=4, alpha=8, dropout=0.5)).spec

    def loss(step: int, rows: list[TokenRow]) -> float | None:
        with adapted(base.model, spec) as model:
            randomize(model)
            slot = new_slot(model, spec)
            slot.step = step
            torch.seed()
            return take_step(slot, rows, spec, 10, go_on).train_loss

    row = batch[0]
    assert loss(0, [row]) == loss(0, [row])
    assert loss(0, [row]) != loss(1, [row])
    assert loss(0, [row]) != loss(0, [row, row])  # else the second has the first one's mask


def test_a_job_reports_base_loss_each_step_and_validation_at_each_epoch_end(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    reports = run(make_order(rows, valid=rows[:3]))
    assert [line.type for line in reports] == [
        *("noted", "noted", "noted", "started"),
        *("stepped", "stepped", "stepped", "checkpointed"),
        *("stepped", "stepped", "stepped", "checkpointed"),
        "finished",
    ]
    noted = reports[2]
    assert isinstance(noted, Noted)
    assert noted.data is not None
    assert noted.data["base_valid_loss"] == pytest.approx(math.log(1024), abs=0.5)
    started = reports[3]
    assert isinstance(started, Started)
    assert (started.progress.step, started.progress.total_steps) == (0, 6)
    steps = [line for line in reports if isinstance(line, Stepped)]
    assert [line.metrics.step for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line.metrics.valid_loss is not None for line in steps] == [False, False, True] * 2
    assert steps[-1].metrics.valid_loss is not None
    assert steps[-1].metrics.valid_loss < noted.data["base_valid_loss"] - 0.2
    assert steps[-1].progress.seconds_left == 0
    first = reports[0]
    assert isinstance(first, Noted)
    assert first.data is not None
    assert steps[-1].progress.trained_tokens == 2 * first.data["trained_tokens"]


def test_a_loss_that_is_not_a_number_is_the_users_and_names_step_and_lines(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]]
) -> None:
    order = make_order(rows[:3], learning_rate=1e30)
    words = r"Step 2: the loss is nan.* lines 1, 2, 3 .*Choose a smaller learning_rate_multiplier"
    with pytest.raises(Untrainable, match=words) as caught:
        run(order)
    assert caught.value.code == "loss_not_finite"


def test_an_order_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    order = epoch_order(100, 7, 0)
    assert sorted(order) == list(range(100))
    torch.manual_seed(0)
    assert epoch_order(100, 7, 0) == order
    assert epoch_order(100, 7, 1) != order
    assert epoch_order(100, 8, 0) != order


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero(spec: TrainingSpec) -> None:
    spec = spec.model_copy(update={"learning_rate": 1.0, "warmup_ratio": 0.15})
    rates = [learning_rate(step, 20, spec) for step in range(20)]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[-1] == pytest.approx(1 / 17)
    assert learning_rate(0, 1, spec) == 1
