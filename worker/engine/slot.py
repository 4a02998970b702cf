"""One job on the base model: its adapter, its optimizer, and how far it has come."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from tunery.messages import Metrics
from tunery.spec import TrainingSpec
from worker.engine.seeds import seed_of


@dataclass
class Slot:
    """`step` optimizer steps are done, and the newest whole checkpoint is of step `kept`.
    `history` has one entry for each step. `trained_tokens` counts the tokens whose loss was taken,
    over all epochs. `base_valid_loss` is the base's own.
    """

    model: PeftModel
    optimizer: torch.optim.AdamW
    step: int = 0
    kept: int = 0
    trained_tokens: int = 0
    base_valid_loss: float | None = None
    history: list[Metrics] = field(default_factory=list)


@contextmanager
def adapted(base: PreTrainedModel, spec: TrainingSpec) -> Iterator[PeftModel]:
    """The base with a fresh fp32 adapter on every linear layer but the head; on leaving, the same
    base without it. The base's own weights are frozen throughout.
    """
    torch.manual_seed(seed_of("adapter", spec.seed))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules="all-linear",
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        bias="none",
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = get_peft_model(base, config, autocast_adapter_dtype=True)
    try:
        yield model
    finally:
        model.unload()


def new_slot(model: PeftModel, spec: TrainingSpec) -> Slot:
    """AdamW (Loshchilov & Hutter 2019) over the adapter, with PyTorch's default betas."""
    optimizer = torch.optim.AdamW(
        adapter_parameters(model).values(),
        lr=spec.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=spec.weight_decay,
    )
    return Slot(model, optimizer)


def adapter_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by the names of PEFT's file format, fp32: A (r, in), B (out, r)."""
    return {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters on the CPU, by the same names."""
    return {
        name: parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in adapter_parameters(model).items()
    }
