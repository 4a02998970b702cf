"""Full fine-tuning: all of a base's own weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.conftest import LOSS_RTOL, ON_CPU, PLAN, TINY, same_adapter
from tests.engine.test_checkpoint import published, same_folder, stopped_after_step_4, weights
from tests.engine.test_start import loss_of
from tunery.spec import Lora
from worker.engine.data.batches import rows_of_steps, steps_per_epoch
from worker.engine.data.reading import read_data
from worker.engine.device import device
from worker.engine.model import base as loading
from worker.engine.model.base import WarmBase
from worker.engine.training import slot as slots
from worker.engine.training import weights as files
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.schedule import learning_rate
from worker.engine.training.slot import new_slot, trained_parameters, whole
from worker.engine.training.step import take_step
from worker.protocol import Finished, Noted, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]

WHOLE: dict[str, Any] = {
    "lora": None,
    "quantization": "none",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
}


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={"": device()}
    )


def trained_by_torch(order: Train) -> tuple[list[float], Any]:
    """Row by row, without any of our code but the order of the rows: each step's loss, and the
    model.
    """
    spec = order.spec
    data = read_data(
        "training",
        order.training_file,
        spec.training_file,
        objective=NextToken(spec),
        tokenizer=WarmBase().open(TINY, "r1", TINY).tokenizer,
        max_length=spec.max_length,
        stop_if_asked=lambda: None,
    )
    model = load(TINY)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=spec.weight_decay)
    steps, losses = steps_per_epoch(data, spec) * spec.n_epochs, []
    for step, rows in enumerate(rows_of_steps(data, spec, 0)):
        tokens = sum(row.trained_tokens for row in rows)
        loss = torch.stack([loss_of(model, row) for row in rows]).sum() / tokens
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, spec)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_as_a_plain_loop_of_torch_does(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    *,
    checkpointing: bool,
) -> None:
    """With its tied embeddings, whose gradient comes from both ends."""
    planned = {"quantization": "none", "dequantized": False, "checkpointing": checkpointing}
    plan = PLAN.model_copy(update=planned | {"micro_tokens": 100})
    monkeypatch.setattr("worker.engine.train.plan_of", lambda *_: plan)
    order = make_order(rows, **WHOLE)
    losses, theirs = trained_by_torch(order)
    reports = run(order)
    stepped = [line.metrics.train_loss for line in reports if isinstance(line, Stepped)]
    assert stepped == pytest.approx(losses, rel=10 * LOSS_RTOL)
    assert len(stepped) == 6
    last = reports[-1]
    assert isinstance(last, Finished)
    ours = load(last.folder)
    before = load(TINY)
    for name, tensor in theirs.state_dict().items():
        off = (ours.state_dict()[name] - tensor).norm()
        moved = (before.state_dict()[name] - tensor).norm()
        assert off <= (1e-3 if ON_CPU else 0.1) * moved, name
    noted = [line.message for line in reports if isinstance(line, Noted)]
    assert any("plan: all weights in fp32, computed in torch." in message for message in noted)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 100_000])
def test_stopped_and_resumed_it_is_the_same_to_the_bit(
    bases: WarmBase,
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    shard_bytes: int,
) -> None:
    monkeypatch.setattr(files, "SHARD_BYTES", shard_bytes)
    whole = published(run(make_order(rows, **WHOLE)))
    kept = stopped_after_step_4(make_order(rows, **WHOLE), bases)
    names = {path.name for path in kept.iterdir()} | whole.keys()
    assert not any(name.startswith("adapter") for name in names)
    assert ("model.safetensors.index.json" in whole) == (shard_bytes < 1 << 30)
    assert {"config.json", "tokenizer.json", "README.md", "metrics.csv"} <= whole.keys()
    resumed = published(run(make_order(rows, checkpoint=kept, **WHOLE)))
    assert same_folder(resumed, whole) if ON_CPU else resumed.keys() == whole.keys()


def test_it_leaves_no_trace_on_the_base_that_the_next_job_is_given(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows
) -> None:
    adapter = {"lora": Lora(r=4, alpha=8), "quantization": "none", "n_epochs": 1}
    before = weights(run(make_order(rows, **adapter)))
    warm = bases.base
    run(make_order(rows, **WHOLE))
    assert bases.base is None
    assert warm
    after = weights(run(make_order(rows, **adapter)))
    assert same_adapter(after, before)
    assert not any(parameter.requires_grad for parameter in warm.model.parameters())


def test_in_bf16_its_weights_and_gradients_stay_fp32(
    make_order: MakeOrder, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By autocast, as on a GPU; and a step's update is seen by the next one."""
    spec, losses = make_order(rows, **WHOLE).spec, []
    plan = PLAN.model_copy(update={"quantization": "none", "dequantized": False})
    for dtype in (torch.float32, torch.bfloat16):
        for module in (loading, slots):
            monkeypatch.setattr(module, "compute_dtype", lambda dtype=dtype: dtype)
        bases = WarmBase()
        folder = bases.open(TINY, "r1", tmp_path)
        objective = NextToken(spec)
        data = read_data(
            "training",
            make_order(rows).training_file,
            spec.training_file,
            objective=objective,
            tokenizer=folder.tokenizer,
            max_length=spec.max_length,
            stop_if_asked=lambda: None,
        )
        with whole(bases.apart(folder).model) as model:
            slot = new_slot(model, spec, plan)
            seen: set[torch.dtype] = set()
            slot.optimizer.register_step_pre_hook(
                lambda optimizer, *_, seen=seen: seen.update(
                    p.grad.dtype for p in optimizer.param_groups[0]["params"]
                )
            )
            for _ in range(3):
                take_step(slot, objective, data.rows, 1e-3, spec, lambda: None)
            kept = {parameter.dtype for parameter in trained_parameters(model).values()}
            assert seen | kept == {torch.float32}
            losses.append([taken.figures[0].item() for taken in slot.unread])
    fp32, bf16 = losses
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=5e-3)
    assert bf16[2] < bf16[0] - 0.1
