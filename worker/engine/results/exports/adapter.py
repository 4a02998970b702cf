"""A trained adapter as its two files hold it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tunery.exports import scaling
from tunery.plan.targets import ends
from worker.engine.errors import Untrainable
from worker.engine.model.experts import shown
from worker.engine.model.lora import apply_to_experts
from worker.engine.training.slot import as_named
from worker.engine.training.weights import ADAPTER, ADAPTER_CONFIG

NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Adapter:
    """`layers` has A (r, in) and B (out, r) by the name of the layer in transformers' model, in the
    dtype of the file; `scale` is what B A is multiplied by. Those of experts are in PEFT's model
    alone, which knows which is which: see `on`.
    """

    folder: Path
    config: dict[str, Any]
    layers: dict[str, tuple[Tensor, Tensor]]
    scale: float

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises `Untrainable` for one that is more than A and B."""
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(folder / ADAPTER).items():
            match = NAME.fullmatch(name)
            if match is None:
                raise Untrainable(
                    "export_refused",
                    f"The adapter has {name}, which is not LoRA. Only the files "
                    "of the job itself hold that.",
                )
            parts.setdefault(match[1], {})[match[2]] = tensor
        experts = [each.rpartition(".")[0] for each in config.get("target_parameters") or ()]
        layers = {
            layer: (part["A"], part["B"])
            for layer, part in sorted(parts.items())
            if not any(ends(layer.replace(".base_layer", ""), each) for each in experts)
        }
        return cls(folder, config, layers, scaling(config))

    def delta(self, layer: str, device: torch.device) -> Tensor:
        """Scale * B A: (out, in) fp32."""
        a, b = (tensor.to(device, torch.float32) for tensor in self.layers[layer])
        return self.scale * (b @ a)

    @contextmanager
    def on(self, base: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """The base with the adapter in it as PEFT loads it; on leaving, the same without it."""
        with as_named(), shown(base):
            model = PeftModel.from_pretrained(base, str(self.folder))
        apply_to_experts(model)
        try:
            yield cast("PreTrainedModel", model.get_base_model())
        finally:
            model.unload()
