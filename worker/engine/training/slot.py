"""One job on the base model: what it trains, its optimizer, and how far it has come."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunery.errors import InvalidRequest
from tunery.measured import Metrics
from tunery.plan.memory import Plan
from tunery.plan.shape import ENCODERS
from tunery.plan.targets import ALL_LINEAR, matching
from tunery.spec import Lora, TrainingSpec
from worker.engine.device import compute_dtype
from worker.engine.errors import AdapterRefused, Untrainable
from worker.engine.model.lora import fuse
from worker.engine.seeds import seed_of
from worker.engine.training.optimizer import new_optimizer


@dataclass(frozen=True)
class Taken:
    """A step whose figures are still on the device: `figures` fp32 are the loss, the objective's
    own and the gradient's norm. `lines` are its rows', `trained_tokens` those of all steps up to
    it, `rate` its learning rate.
    """

    step: int
    rate: float
    lines: list[int]
    trained_tokens: int
    figures: Tensor


@dataclass(frozen=True)
class Said:
    """The answers to the first validation rows, and the loss of each row that is measured."""

    answers: list[str]
    losses: list[float]


@dataclass
class Slot:
    """`step` optimizer steps are done, and the newest whole checkpoint is of step `kept`.
    `history` has one entry for each step but the last ones, which are `unread`. `trained_tokens`
    counts the tokens whose loss was taken, over all epochs, and `seconds` the training's time, over
    all attempts; `tokens` counts all tokens, in this attempt. `base_valid_loss` and `base_said` are
    those of the model it starts from, `reference` its log-probabilities of preferences' answers, by
    kind of file: (rows, 2) fp32 on the CPU. `best` are copies of the weights that were the best on
    the validation file, if they may be the result.
    """

    model: PeftModel | PreTrainedModel
    optimizer: torch.optim.Optimizer
    plan: Plan
    step: int = 0
    kept: int = 0
    trained_tokens: int = 0
    tokens: int = 0
    seconds: float = 0
    base_valid_loss: float | None = None
    base_said: Said | None = None
    history: list[Metrics] = field(default_factory=list)
    unread: list[Taken] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    reference: dict[str, Tensor] = field(default_factory=dict)

    def follow(self, plan: Plan) -> None:
        """From here on steps are cut by this plan. The precision of the base stays as it is."""
        self.plan = plan
        if plan.checkpointing:
            self.causal.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.causal.activation_checkpointing_disable()

    @property
    def causal(self) -> PreTrainedModel:
        """Transformers' model, in which PEFT may have put its layers."""
        if isinstance(self.model, PeftModel):
            return cast("PreTrainedModel", self.model.get_base_model())
        return self.model


@contextmanager
def whole(base: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The base itself, in fp32, with all of its weights to be trained. Where it is computed in
    bf16, that is by autocast: without its cache, which would outlive a step's update.
    """
    base.requires_grad_(requires_grad=True)
    dtype = compute_dtype()
    with torch.autocast(
        base.device.type, dtype, enabled=dtype is not torch.float32, cache_enabled=False
    ):
        yield base


@contextmanager
def adapted(base: PreTrainedModel, spec: TrainingSpec) -> Iterator[PeftModel]:
    """The base with a fresh fp32 adapter on the linear layers that the spec names; on leaving, the
    same base without it. The base's own weights are frozen throughout.

    Raises:
        Untrainable: there is no such layer.

    """
    assert spec.lora  # noqa: S101
    targets = targets_of(base, spec.lora)
    torch.manual_seed(seed_of("adapter", spec.seed))
    config = LoraConfig(
        # PEFT has none for encoders.
        task_type=None if base.config.model_type in ENCODERS else "CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        target_modules=targets,
        use_rslora=spec.lora.rslora,
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        bias="none",
    )
    with quiet():
        model = get_peft_model(base, config, autocast_adapter_dtype=True)
    fuse(model)
    try:
        yield model
    finally:
        # Else PEFT would prepare the next job's model for it, in a way of its own.
        base.activation_checkpointing_disable()
        model.unload()


def targets_of(base: PreTrainedModel, lora: Lora) -> str | list[str]:
    """For PEFT, which would adapt embeddings too if they are named. A regular expression becomes
    the names of its layers: nothing else may be searched with it, see `matching`.
    """
    head = base.get_output_embeddings()
    linear = [
        name
        for name, module in base.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    ]
    try:
        found = matching(linear, lora.target_modules)
    except InvalidRequest as error:
        raise Untrainable("target_modules_refused", error.message) from error
    if lora.target_modules == ALL_LINEAR:
        return ALL_LINEAR
    return found if isinstance(lora.target_modules, str) else list(lora.target_modules)


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT 0.21 asks transformers 5.23 for an attribute by its older name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def new_slot(model: PeftModel | PreTrainedModel, spec: TrainingSpec, plan: Plan) -> Slot:
    slot = Slot(model, new_optimizer(trained_parameters(model).values(), spec), plan)
    slot.follow(plan)
    return slot


def trained_parameters(model: PeftModel | PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Each once, fp32, by the names of its file format: PEFT's A (r, in) and B (out, r), or all of
    transformers' weights.
    """
    return {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trained(model: PeftModel | PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """Raises `AdapterRefused` for other layers or shapes than the model's own."""
    parameters = trained_parameters(model)
    if parameters.keys() != tensors.keys():
        raise AdapterRefused("it has other layers than the base model")
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            had, has = tuple(tensors[name].shape), tuple(parameter.shape)
            raise AdapterRefused(f"{name} has shape {had}, here it has {has}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
