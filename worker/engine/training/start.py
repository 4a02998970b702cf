"""The weights that a training starts from, when they are a tuned model's."""

import json
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tunery.base_model import file_facts, hub_commit
from tunery.spec import StartingAdapter, TrainingSpec
from worker.engine.errors import AdapterRefused, Untrainable
from worker.engine.training.slot import load_trained
from worker.engine.training.weights import ADAPTER, ADAPTER_CONFIG


def start_from(
    model: PeftModel | PreTrainedModel,
    adapter: StartingAdapter,
    folder: Path | None,
    spec: TrainingSpec,
) -> None:
    """Puts the adapter's weights in the place of the fresh ones. In `folder` lie PEFT's two files.

    Raises:
        Untrainable: it is not the adapter that the spec names, or of another base, rank, scale or
            layers.

    """
    if folder is None:
        raise ValueError("the job goes on from an adapter, the attempt has none")
    try:
        refuse_another(folder, adapter, spec)
        load_trained(model, load_file(folder / ADAPTER))
    except AdapterRefused as error:
        message = f"The training cannot go on from {adapter.model}: {error}. Create the job again."
        raise Untrainable("adapter_refused", message) from error


def refuse_another(folder: Path, adapter: StartingAdapter, spec: TrainingSpec) -> None:
    if file_facts(folder / ADAPTER).sha256 != adapter.sha256:
        raise AdapterRefused("its weights have changed since the job was created")
    assert spec.lora  # noqa: S101  (it has an adapter to start from)
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    asked = {
        "base_model_name_or_path": spec.base_model,
        "revision": hub_commit(spec.base_model, spec.base_revision),
        "r": spec.lora.r,
        "lora_alpha": spec.lora.alpha,
        "use_rslora": spec.lora.rslora,
    }
    for name, ours in asked.items():
        if config.get(name, False) != ours and ours is not None:
            raise AdapterRefused(f"its {name} is {config.get(name)}, the job's is {ours}")
