"""A whole training against TRL's SFTTrainer on the same batches; on a GPU both in bf16."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.conftest import LOSS_RTOL, ON_CPU
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer
from tunery.spec import Lora
from worker.engine.data.batches import epoch_order
from worker.protocol import Finished, Report, Stepped, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]

SETTINGS: dict[str, Any] = {
    "n_epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "warmup_ratio": 0.2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "lora": Lora(r=4, alpha=8),
}


@pytest.mark.long
def test_the_adapter_and_every_loss_equal_trls(
    run: Run, make_order: MakeOrder, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    # A rate that moves nothing shows what a training starts from.
    still = run(make_order(rows, **SETTINGS | {"n_epochs": 1, "learning_rate": 1e-30}))
    order = make_order(rows, **SETTINGS)
    reports = run(order)
    losses = [line.metrics.train_loss for line in reports if isinstance(line, Stepped)]
    assert len(losses) == 9  # the last of each epoch's three is of two rows only

    trl_losses = trained_by_trl(order, adapter_file(still), tmp_path / "trl")

    assert losses == pytest.approx(trl_losses, rel=1e-4 if ON_CPU else LOSS_RTOL)
    first, ours = load_file(adapter_file(still)), load_file(adapter_file(reports))
    theirs = load_file(tmp_path / "trl" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert relative(tensor, first[name]) > 0.1, f"{name} has hardly moved"
        if ON_CPU:
            assert relative(tensor, theirs[name]) < 1e-4, name
        else:  # beside how far the training has moved it
            assert (tensor - theirs[name]).norm() < 0.2 * (tensor - first[name]).norm(), name


def relative(tensor: torch.Tensor, other: torch.Tensor) -> float:
    return float((tensor - other).abs().max() / tensor.abs().max())


def adapter_file(reports: list[Report]) -> Path:
    finished = reports[-1]
    assert isinstance(finished, Finished)
    return finished.folder / "adapter_model.safetensors"


def trained_by_trl(order: Train, initial: Path, out: Path) -> list[float]:
    """The loss of each step; `out` gets the adapter."""
    spec = order.spec
    tokenizer, rows = ChatTokenizer(order.base_folder), []
    for row in read_rows(order.training_file):
        assert not isinstance(row, Fault)
        [example] = tokenizer.encode(row, spec.max_length)
        pairs = zip(example.ids, example.mask, strict=True)
        labels = [token if trained else -100 for token, trained in pairs]
        rows.append({"input_ids": example.ids, "labels": labels})
    total_steps = spec.n_epochs * math.ceil(len(rows) / spec.batch_size)
    training = {
        "base": str(order.base_folder),
        "initial": str(initial),
        "out": str(out),
        "epochs": [
            [rows[number] for number in epoch_order(len(rows), spec.seed, epoch)]
            for epoch in range(spec.n_epochs)
        ],
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate,
        "warmup_steps": math.ceil(spec.warmup_ratio * total_steps),
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "lora": {"r": spec.r, "lora_alpha": spec.lora.alpha if spec.lora else None},
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("trl_adapter.py"))],
        input=json.dumps(training),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses: list[float] = json.loads(done.stdout.splitlines()[-1])
    return losses
