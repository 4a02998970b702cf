"""The result as users download it: a flat folder that transformers and PEFT load."""

import csv
import shutil
from pathlib import Path

import torch

from tunery.measured import Metrics
from tunery.proof.kept import PROOF, Proof
from tunery.spec import TrainingSpec
from worker.engine.data.reading import TokenRows
from worker.engine.device import device_name
from worker.engine.errors import NOT_FINITE, Untrainable
from worker.engine.model.base import Base
from worker.engine.results.card import card
from worker.engine.results.curves import EVENTS, write_events
from worker.engine.sealed import sealed, versions
from worker.engine.training.slot import Slot, trained_parameters
from worker.engine.training.weights import read_trained, write_trained

METRICS = "metrics.csv"
USUAL_METRICS = {
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
}
TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def write(
    slot: Slot,
    spec: TrainingSpec,
    base: Base,
    data: TokenRows,
    proof: Proof | None,
    folder: Path,
) -> None:
    """Writes the finished adapter, or the whole model, to `folder`, flushed to disk. An encoder has
    no `proof`.

    Raises:
        Untrainable: the last step left weights that are not finite.
        RuntimeError: the file does not read back as it was written.
        DiskFull: see `sealed`.

    """
    about = {
        "base_model": spec.base_model,
        "base_revision": spec.base_revision,
        "training_data_sha256": spec.training_file.sha256,
        "spec": spec.model_dump(mode="json"),
        "plan": slot.plan.model_dump(),
        "libraries": versions(),
        "device": device_name(),
    }
    with sealed(folder, "adapter" if spec.lora else "model", about) as partial:
        write_trained(slot.model, spec, base.folder.path, partial)
        prove(slot, spec, partial)
        for name in TOKENIZER_FILES:
            if (base.folder.path / name).exists():
                shutil.copyfile(base.folder.path / name, partial / name)
        lay_template(spec, partial)
        write_metrics(slot.history, partial / METRICS)
        write_events(slot.history, partial / EVENTS)
        if proof:
            (partial / PROOF).write_text(proof.model_dump_json(exclude_none=True) + "\n")
        (partial / "README.md").write_text(card(slot, spec, data))


def lay_template(spec: TrainingSpec, folder: Path) -> None:
    """The job's own chat template, in place of the base's."""
    if spec.chat_template is not None:
        (folder / TEMPLATE).write_text(spec.chat_template)


def prove(slot: Slot, spec: TrainingSpec, folder: Path) -> None:
    """The files hold what was trained: same names, shapes and bits, all of them finite."""
    written, trained = read_trained(spec, folder), trained_parameters(slot.model)
    for name, parameter in trained.items():
        tensor = parameter.detach().cpu()
        if not torch.isfinite(tensor).all():
            raise Untrainable(
                NOT_FINITE,
                "The last step left weights that are not finite numbers. "
                "Choose a smaller learning_rate_multiplier.",
            )
        if name not in written or not torch.equal(written[name], tensor):
            raise RuntimeError(f"{name} does not read back as it was written")
    if written.keys() != trained.keys():
        raise RuntimeError("the files have tensors that were not trained")


def write_metrics(history: list[Metrics], path: Path) -> None:
    """One row a step: OpenAI's columns, empty where there is no value, and what else there is."""
    steps = [metrics.model_dump() for metrics in history]
    measured = [
        name
        for name in Metrics.model_fields
        if name in USUAL_METRICS or any(step[name] is not None for step in steps)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, measured, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(steps)
