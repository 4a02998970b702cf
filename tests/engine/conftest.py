"""A tiny base model, jobs on it, and a way to run them in this process."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

with warnings.catch_warnings():
    # torch, transformers, peft and bitsandbytes warn about each other while they are imported.
    warnings.simplefilter("ignore")
    from worker.engine import train as loop
    from worker.engine.device import device
    from worker.engine.model.base import Base, WarmBase
    from worker.engine.train import train

from tunery.base_model import files_of
from tunery.measured import Metrics
from tunery.plan.memory import Plan
from tunery.spec import DataFile, Lora, TrainingSpec
from worker.protocol import Entered, Report, Train

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
FILES = files_of(TINY)
# What the orders made here are planned to be.
PLAN = Plan(
    quantization="nf4", dequantized=True, checkpointing=False, micro_tokens=4096, peak_bytes=0
)

# A GPU computes in bf16 and adds up in another order each time.
ON_CPU = device().type == "cpu"
LOSS_RTOL = 1e-6 if ON_CPU else 5e-3

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]


def same_adapter(one: bytes, other: bytes) -> bool:
    """Whether two adapter files are the same to the bit. On a GPU: to half a percent, by norm; in
    bf16 another cut of the steps makes a little more, another dropout or order twice that.
    """
    if ON_CPU:
        return one == other
    ones, others = load(one), load(other)
    assert ones.keys() == others.keys()
    apart = torch.cat([(ones[name] - others[name]).flatten() for name in others])
    whole = torch.cat([tensor.flatten() for tensor in others.values()])
    return bool(apart.norm() <= 0.005 * whole.norm())


def same_metrics(ones: list[Metrics], others: list[Metrics]) -> bool:
    """To the bit; on a GPU the same steps, and losses as near as bf16 has them."""
    if ON_CPU:
        return ones == others
    return all(
        one.step == other.step and one.train_loss == pytest.approx(other.train_loss, rel=LOSS_RTOL)
        for one, other in zip(ones, others, strict=True)
    )


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session")
def bases() -> WarmBase:
    return WarmBase()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def base(bases: WarmBase, cache: Path) -> Base:
    """The warm one."""
    return bases.load(bases.open(TINY, "r1", cache, FILES), PLAN)


@pytest.fixture(autouse=True)
def every_step_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "READ_SECONDS", 0)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return ten_chats()


def ten_chats() -> list[dict[str, Any]]:
    """They are of unequal length."""
    return [
        {
            "messages": [
                {"role": "user", "content": "Tell me about the sea. " * (1 + index % 4)},
                {"role": "assistant", "content": f"The sea has {index} waves. " * (1 + index % 3)},
            ]
        }
        for index in range(10)
    ]


@pytest.fixture
def make_order(tmp_path: Path, cache: Path) -> MakeOrder:
    return orders_in(tmp_path, cache)


def orders_in(parent: Path, cache: Path) -> MakeOrder:
    """Writes the data sets and an empty attempt folder; `settings` go into the spec."""
    attempts = 0

    def make(
        rows: list[dict[str, Any]],
        *,
        valid: list[dict[str, Any]] | None = None,
        checkpoint: Path | None = None,
        **settings: Any,
    ) -> Train:
        nonlocal attempts
        attempts += 1
        folder = parent / f"attempt-{attempts}"
        folder.mkdir()
        training_file, training = write_data(parent / f"train-{attempts}.jsonl", rows)
        validation_file, validation = None, None
        if valid is not None:
            validation_file, validation = write_data(parent / f"valid-{attempts}.jsonl", valid)
        spec = TrainingSpec(
            base_model="tunery/tiny",
            base_revision="r1",
            training_file=training,
            validation_file=validation,
            **{
                "seed": 5,
                "n_epochs": 2,
                "batch_size": 4,
                "learning_rate": 1e-2,
                "max_length": 256,
                "lora": Lora(r=4, alpha=8, dropout=0.1),
            }
            | settings,
        )
        return Train(
            job_id="job-1",
            token=attempts,
            project_id=None,  # no test finds what another has read
            spec=spec,
            base_folder=TINY,
            base_files=FILES,
            training_file=training_file,
            validation_file=validation_file,
            checkpoint=checkpoint,
            checkpoint_seconds=3600,
            folder=folder,
            cache=cache,
        )

    return make


def on_base(order: Train, folder: Path) -> Train:
    """The same on another base."""
    return order.model_copy(update={"base_folder": folder, "base_files": files_of(folder)})


def write_data(path: Path, rows: list[dict[str, Any]]) -> tuple[Path, DataFile]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, DataFile(id="file-1", sha256=sha256, rows=max(1, len(rows)))


@pytest.fixture
def run(bases: WarmBase) -> Run:
    """Trains a job to its end on the warm base; returns what was reported, but for phases."""

    def run_to_end(order: Train) -> list[Report]:
        reports: list[Report] = []
        train(order, bases, reports.append, lambda: None)
        return [line for line in reports if not isinstance(line, Entered)]

    return run_to_end
