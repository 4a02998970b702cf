"""A training that goes on from a tuned model."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.engine.conftest import LOSS_RTOL, ON_CPU, TINY, same_adapter
from tunery.base_model import file_facts
from tunery.spec import Lora, StartingAdapter
from worker.engine.data.batches import rows_of_steps, steps_per_epoch
from worker.engine.data.reading import read_data
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device
from worker.engine.errors import CheckpointRefused, StopAsked, Untrainable
from worker.engine.model.base import WarmBase
from worker.engine.train import train
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.schedule import learning_rate
from worker.engine.training.slot import trained_parameters
from worker.protocol import Checkpointed, Finished, Noted, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]

WEIGHTS = "adapter_model.safetensors"
SETTINGS: dict[str, Any] = {"lora": Lora(r=4, alpha=8), "quantization": "none", "n_epochs": 1}
NAME = "ft:tiny:a::12345678"


def published(reports: list[Report]) -> Path:
    last = reports[-1]
    assert isinstance(last, Finished)
    return last.folder


@pytest.fixture
def tuned(run: Run, make_order: MakeOrder, rows: Rows) -> Path:
    """A tuned model: an adapter's folder."""
    return published(run(make_order(rows, **SETTINGS)))


def going_on(make_order: MakeOrder, rows: Rows, tuned: Path, **changed: Any) -> Train:
    """An order that goes on from it under another seed."""
    adapter = StartingAdapter(model=NAME, sha256=file_facts(tuned / WEIGHTS).sha256)
    order = make_order(rows, **(SETTINGS | {"seed": 8, "adapter": adapter} | changed))
    return order.model_copy(update={"adapter": tuned})


def loss_of(model: Any, row: TokenRow) -> Tensor:
    """Summed over the row's trained tokens."""
    ids = row.ids.long().to(device())
    log_probs = torch.log_softmax(model(input_ids=ids[None]).logits[0].float(), dim=-1)
    after = row.trained[1:].nonzero()[:, 0].to(device())
    return -log_probs[after, ids[1:][after]].sum()


def trained_by_peft(
    order: Train, bases: WarmBase
) -> tuple[float, list[float], Mapping[str, Tensor]]:
    """What PEFT has loaded, trained row by row without any of our code but the order of the rows:
    the first validation row's loss before, each step's loss, and the weights.
    """
    spec, base = order.spec, bases.base
    assert base

    def read(path: Path | None, file: Any) -> Any:
        assert path
        return read_data(
            "training",
            path,
            file,
            objective=NextToken(spec),
            tokenizer=base.folder.tokenizer,
            max_length=spec.max_length,
            stop_if_asked=lambda: None,
        )

    data = read(order.training_file, spec.training_file)
    (valid,) = read(order.validation_file, spec.validation_file).rows
    bare = AutoModelForCausalLM.from_pretrained(
        TINY, dtype=compute_dtype(), device_map={"": device()}
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = PeftModel.from_pretrained(bare, str(order.adapter), is_trainable=True)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=spec.weight_decay)
    with torch.no_grad():
        before = loss_of(model, valid).item() / valid.trained_tokens
    losses = []
    steps = steps_per_epoch(data, spec) * spec.n_epochs
    for step, rows in enumerate(rows_of_steps(data, spec, 0)):
        tokens = sum(row.trained_tokens for row in rows)
        loss = torch.stack([loss_of(model, row) for row in rows]).sum() / tokens
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, spec.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, spec)
        optimizer.step()
        losses.append(loss.item())
    return before, losses, trained_parameters(model)


def test_it_trains_as_peft_does_on_the_adapter_it_has_loaded(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows, tuned: Path
) -> None:
    order = going_on(make_order, rows[2:], tuned, valid=rows[:1])
    reports = run(order)
    noted = [line for line in reports if isinstance(line, Noted)][-1]
    stepped = [line.metrics.train_loss for line in reports if isinstance(line, Stepped)]
    before, losses, weights = trained_by_peft(order, bases)
    assert noted.message == f"Validation loss of {NAME}: {before:.4f}"
    assert stepped == pytest.approx(losses, rel=10 * LOSS_RTOL)
    assert len(stepped) == 2
    ours, started = load_file(published(reports) / WEIGHTS), load_file(tuned / WEIGHTS)
    for name, tensor in ours.items():
        off, moved = (tensor - weights[name].detach().cpu()).norm(), (tensor - started[name]).norm()
        assert off <= (1e-3 if ON_CPU else 0.1) * moved


def test_the_manifest_and_the_card_say_what_it_went_on_from(
    run: Run, make_order: MakeOrder, rows: Rows, tuned: Path
) -> None:
    order = going_on(make_order, rows, tuned)
    folder = published(run(order))
    named = json.loads((folder / "manifest.json").read_text())["spec"]["adapter"]
    assert named == {"model": NAME, "sha256": file_facts(tuned / WEIGHTS).sha256}
    assert f"| Goes on from | `{NAME}` |" in (folder / "README.md").read_text()


def test_stopped_and_resumed_it_is_the_same_and_no_checkpoint_of_another_start_is_taken(
    bases: WarmBase, run: Run, make_order: MakeOrder, rows: Rows, tuned: Path
) -> None:
    changed = {"lora": Lora(r=4, alpha=8, dropout=0.1), "n_epochs": 2}
    whole = published(run(going_on(make_order, rows, tuned, **changed)))
    reports: list[Report] = []

    def stop() -> None:
        if any(isinstance(line, Stepped) for line in reports):
            raise StopAsked(checkpoint=True)

    with pytest.raises(StopAsked):
        train(going_on(make_order, rows, tuned, **changed), bases, reports.append, stop)
    last = reports[-1]
    assert isinstance(last, Checkpointed)
    again = going_on(make_order, rows, tuned, **changed)
    resumed = published(run(again.model_copy(update={"checkpoint": last.folder})))
    assert same_adapter((resumed / WEIGHTS).read_bytes(), (whole / WEIGHTS).read_bytes())
    fresh = make_order(rows, checkpoint=last.folder, **(SETTINGS | {"seed": 8} | changed))
    with pytest.raises(CheckpointRefused, match="another training: its settings"):
        run(fresh)
    other = going_on(make_order, rows, whole, **changed)
    with pytest.raises(CheckpointRefused, match="another training: its settings"):
        run(other.model_copy(update={"checkpoint": last.folder}))


def lose_a_layer(tensors: dict[str, Tensor]) -> None:
    tensors.popitem()


def widen_a_layer(tensors: dict[str, Tensor]) -> None:
    name, tensor = tensors.popitem()
    tensors[name] = torch.cat([tensor, tensor])


@pytest.mark.parametrize(
    ("config", "weights", "words"),
    [
        ({"revision": "r2"}, None, "its revision is r2, the job's is r1"),
        ({"lora_alpha": 9}, None, "its lora_alpha is 9, the job's is 8"),
        ({}, lose_a_layer, "it has other layers than the base model"),
        ({}, widen_a_layer, "has shape"),
    ],
)
def test_an_adapter_of_another_base_or_shape_is_refused(
    run: Run,
    make_order: MakeOrder,
    rows: Rows,
    tuned: Path,
    config: dict[str, Any],
    weights: Callable[[dict[str, Tensor]], None] | None,
    words: str,
) -> None:
    other = tuned.with_name("other")
    shutil.copytree(tuned, other)
    path = other / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if weights:
        tensors = load_file(other / WEIGHTS)
        weights(tensors)
        save_file(tensors, other / WEIGHTS)
    with pytest.raises(Untrainable, match=words):
        run(going_on(make_order, rows, other))


def test_weights_that_are_not_those_the_job_was_created_on_are_refused(
    run: Run, make_order: MakeOrder, rows: Rows, tuned: Path
) -> None:
    order = going_on(make_order, rows, tuned)
    save_file(load_file(tuned / WEIGHTS) | {"more": torch.zeros(1)}, tuned / WEIGHTS)
    with pytest.raises(Untrainable, match="its weights have changed since"):
        run(order)
