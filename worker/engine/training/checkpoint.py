"""A training laid down after any of its steps, so that another attempt goes on from there.

A flat folder: the trained weights as they are published, the optimizer's state, where it stands,
for preferences the log-probabilities that it began with, and the best weights if they are others.
Randomness is a function of the step (`worker.engine.seeds`), so there is none to keep.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunery.measured import Metrics
from tunery.plan.memory import Plan
from tunery.spec import TrainingSpec
from worker.engine.device import device, device_name
from worker.engine.errors import AdapterRefused, CheckpointRefused
from worker.engine.ranks import together
from worker.engine.sealed import (
    broken_seal,
    sealed,
    versions,
    write_json,
    write_tensors,
)
from worker.engine.training.best import best_of
from worker.engine.training.optimizer import load_state, state_of
from worker.engine.training.slot import Answered, Said, Slot, load_trained, trained_parameters
from worker.engine.training.weights import read_shards, read_trained, write_shards, write_trained

FORMAT = 3
STATE = "checkpoint.json"
OPTIMIZER = "optimizer"
REFERENCE = "reference.safetensors"
BEST = "best"
PROCESSES = "processes"
ARITHMETIC = "engine's arithmetic"
# Raised by whatever makes this engine round in another way. 2: on a CPU, AdamW in one pass, and
# norms and rotary positions in fewer.
ROUNDS_AS = "2"
# What checkpoints of before these were told were made with.
AT_FIRST = {PROCESSES: "1", ARITHMETIC: "1"}


def write(slot: Slot, spec: TrainingSpec, base: Path, parent: Path) -> Path:
    """Writes `parent/checkpoint-STEP`, flushed to disk. `base` is the base model's folder.

    Raises:
        DiskFull: see `sealed`.

    """
    folder = parent / f"checkpoint-{slot.step}"
    tensors, numbers = state_of(slot.optimizer, trained_parameters(slot.model))
    state = {
        "format": FORMAT,
        "identity": identity(spec),
        "machine": machine(),
        "plan": slot.plan.model_dump(),
        "step": slot.step,
        "trained_tokens": slot.trained_tokens,
        "seconds": slot.seconds,
        "base_valid_loss": slot.base_valid_loss,
        "base_said": asdict(slot.base_said) if slot.base_said else None,
        "base_answers": [asdict(each) for each in slot.base_answers],
        "history": [metrics.model_dump() for metrics in slot.history],
        "optimizer": numbers,
    }
    with sealed(folder, "checkpoint", {"step": slot.step}) as partial:
        write_trained(slot.model, spec, base, partial)
        write_shards(partial, OPTIMIZER, tensors)
        best = best_of(slot.history)
        if slot.best and best and best.step != slot.step:
            write_shards(partial, BEST, slot.best)
        if slot.reference:
            write_tensors(partial / REFERENCE, slot.reference)
        write_json(partial / STATE, state)
    slot.kept = slot.step
    return folder


@dataclass(frozen=True)
class Kept:
    """A whole checkpoint of this training, as it lies in `folder`."""

    folder: Path
    spec: TrainingSpec
    state: dict[str, Any]

    @property
    def plan(self) -> Plan:
        """The plan that was followed when it was written."""
        return Plan.model_validate(self.state["plan"])

    def restore(self, slot: Slot) -> str | None:
        """Puts it into a new slot. Returns None if the training goes on bit by bit as it would
        have, else why not.

        Raises:
            CheckpointRefused: its weights are another base's.

        """
        weights = read_trained(self.spec, self.folder)
        try:
            load_trained(slot.model, weights)
        except AdapterRefused as error:
            raise CheckpointRefused(f"The checkpoint's weights cannot be used: {error}.") from error
        load_state(
            slot.optimizer,
            trained_parameters(slot.model),
            read_shards(self.folder, OPTIMIZER),
            self.state.get("optimizer", {}),  # AdamW has none, and none was kept before
        )
        if (self.folder / REFERENCE).exists():
            slot.reference = load_file(self.folder / REFERENCE)
        slot.step = slot.kept = self.state["step"]
        slot.trained_tokens = self.state["trained_tokens"]
        slot.seconds = self.state.get("seconds", 0.0)
        slot.base_valid_loss = self.state["base_valid_loss"]
        if said := self.state.get("base_said"):
            slot.base_said = Said(**said)
        slot.base_answers = [Answered(**each) for each in self.state.get("base_answers", ())]
        slot.history = [Metrics(**metrics) for metrics in self.state["history"]]
        if self.spec.load_best_model_at_end and best_of(slot.history):
            # Else they are those of this very step.
            slot.best = read_shards(self.folder, BEST) or weights
        before, now = AT_FIRST | self.state["machine"], machine()
        changed = [
            f"{name} {before.get(name)} before, {now[name]} now"
            for name in now
            if before.get(name) != now[name]
        ]
        if slot.plan != self.plan:
            changed.append(f"{self.plan.in_words()} before, {slot.plan.in_words()} now")
        if device().type == "cuda":
            changed.append("a GPU adds up in another order each time")
        return "; ".join(changed) or None


def read(folder: Path, spec: TrainingSpec) -> Kept:
    """Raises:
    CheckpointRefused: the folder is damaged, or of another spec, data set, base or format.

    """
    if reason := broken_seal(folder):
        raise CheckpointRefused(f"The checkpoint cannot be used: {reason}.")
    state = json.loads((folder / STATE).read_text())
    refuse_another(state, spec)
    return Kept(folder, spec, state)


def identity(spec: TrainingSpec) -> dict[str, str | None]:
    """What a checkpoint belongs to, in the order in which a difference is worth telling. Any number
    of GPUs goes on from it.
    """
    settings = spec.model_copy(update={"gpus": 1}).model_dump_json()
    return {
        "base model": spec.base_model,
        "base model revision": spec.base_revision,
        "training file": spec.training_file.sha256,
        "validation file": spec.validation_file.sha256 if spec.validation_file else None,
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
    }


def machine() -> dict[str, str]:
    """What the last bits of a result depend on."""
    return versions() | {
        "device": device_name(),
        "threads": str(torch.get_num_threads()),
        PROCESSES: str(together.count()),
        ARITHMETIC: ROUNDS_AS,
    }


def refuse_another(state: dict[str, Any], spec: TrainingSpec) -> None:
    if state["format"] != FORMAT:
        raise CheckpointRefused(
            f"The checkpoint has format {state['format']}, this engine reads format {FORMAT}."
        )
    for name, ours in identity(spec).items():
        if state["identity"][name] != ours:
            raise CheckpointRefused(
                f"The checkpoint belongs to another training: its {name} is "
                f"{state['identity'][name]}, the job's is {ours}."
            )
