"""One job on the base model: what it trains, its optimizer, and how far it has come."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from unittest.mock import patch

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunery.base_model import first_position
from tunery.errors import InvalidRequest
from tunery.measured import Metrics
from tunery.plan.memory import Plan
from tunery.plan.shape import ENCODERS
from tunery.plan.targets import ends, experts_matching, matching
from tunery.spec import Lora, TrainingSpec
from tunery.weights import MAMBAS, REFUSED_OF_MAMBA
from worker.engine.device import compute_dtype
from worker.engine.errors import AdapterRefused, Untrainable
from worker.engine.kernels import chosen
from worker.engine.kernels.parts import fused_parts
from worker.engine.model.documents import contexts_of_recomputation
from worker.engine.model.experts import (
    modules_with_experts,
    parameters_in,
    routers_of,
    shown,
)
from worker.engine.model.head import Head, recomputable
from worker.engine.model.lora import adapters_of_experts, fuse, unfuse
from worker.engine.model.uncompiled import Linear4bit, Linear8bitLt
from worker.engine.model.way import Way
from worker.engine.ranks import together
from worker.engine.ranks.shards import Shards
from worker.engine.seeds import seed_of
from worker.engine.training.optimizer import new_optimizer

REWRITING = "peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers"
T = TypeVar("T")
LINEAR = (torch.nn.Linear, Conv1D, Linear4bit, Linear8bitLt)


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


@dataclass(frozen=True)
class Answered:
    """A model's answer to a held-out row: a text, and calls of functions as OpenAI has them."""

    text: str
    calls: list[dict[str, Any]]


@dataclass
class Slot:
    """`step` optimizer steps are done, and the newest whole checkpoint is of step `kept`.
    `history` has one entry for each step but the last ones, which are `unread`. `trained_tokens`
    counts the tokens whose loss was taken, over all epochs, and `seconds` the training's time, over
    all attempts; `tokens` counts all tokens, in this attempt. `base_valid_loss`, `base_said` and
    `base_answers` are those of the model it starts from, `reference` its log-probabilities of
    preferences' answers, by kind of file: (rows, 2) fp32 on the CPU. `best` are copies of the
    weights that were the best on the validation file, if they may be the result. The base's layers
    are in `shards` if they are divided among processes.
    """

    model: PeftModel | PreTrainedModel
    optimizer: torch.optim.Optimizer
    plan: Plan
    way: Way = "packed"
    shards: Shards | None = None
    head: Head = field(init=False)
    trains_head: bool = field(init=False)
    step: int = 0
    kept: int = 0
    trained_tokens: int = 0
    tokens: int = 0
    seconds: float = 0
    base_valid_loss: float | None = None
    base_said: Said | None = None
    base_answers: list[Answered] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)
    unread: list[Taken] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    reference: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.head = Head(self.causal)
        self.trains_head = self.head.is_trained
        # In all of it: a base comes in eval mode, what is put around it does not.
        self.model.train()

    def follow(self, plan: Plan) -> None:
        """From here on steps are cut by this plan. The precision of the base stays as it is."""
        self.plan = plan
        if plan.checkpointing:
            self.causal.activation_checkpointing_enable(
                {"use_reentrant": False, "context_fn": contexts_of_recomputation}
            )
            layers = recomputable(self.head.body)
            for layer in layers[plan.recomputed(len(layers)) :]:
                layer.gradient_checkpointing = False
        else:
            self.causal.activation_checkpointing_disable()

    def each(
        self, pieces: Iterable[T], size: Callable[[T], int], work: Callable[[int, T], None]
    ) -> None:
        """Does `work`, a forward pass and what follows of it, on each piece that is this process's,
        given its number among all.
        """
        if self.shards is not None:
            self.shards.each(pieces, size, work)
            return
        for number, piece in together.mine(pieces, size):
            work(number, piece)

    def once(self, work: Callable[[], T]) -> T:
        """A forward pass and what follows of it, which all processes do alike."""
        return work() if self.shards is None else self.shards.carry(work)

    def by_first(self, work: Callable[[], T]) -> T | None:
        """What the first process alone does with the model, without gradients. With a divided base
        the others give their parts of it meanwhile.
        """
        if self.shards is not None:
            return self.shards.led(work)
        return work() if together.is_first() else None

    def left_as_first(self, last: Callable[[], T]) -> tuple[bool, T | None]:
        """From here on this process is alone: whether it is the one that goes on, and what the
        `last` work with the model has made in it. Where each has but a part of the base, the others
        stay for that.
        """
        if self.shards is not None:
            made = self.shards.led(last)
            return together.left_as_first(), made
        first = together.left_as_first()
        return first, last() if first else None

    @property
    def first_position(self) -> int:
        """That of a row's first token."""
        config = self.causal.config.get_text_config()
        return first_position(config.model_type, config.pad_token_id)

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
    """The base with a fresh fp32 adapter on the linear layers and experts that the spec names; on
    leaving, the same base without it. The base's own weights are frozen throughout.

    Raises:
        Untrainable: there is no such layer.
        RuntimeError: PEFT adapted others.

    """
    assert spec.lora  # noqa: S101
    config = lora_config(base, spec.lora)
    wanted = {*layers_of(base, spec.lora), *parameters_of(base, spec.lora)}
    torch.manual_seed(seed_of("adapter", spec.seed))
    model = with_adapter(base, config)
    if differing := wanted ^ adapted_in(model):
        raise RuntimeError(
            f"PEFT adapts other layers than were asked for, such as {min(differing)}"
        )
    fuse(model)
    weights: Any = base.get_input_embeddings().weight
    try:
        with fused_parts(base, chosen.parts_of(weights)):
            yield model
    finally:
        # Else PEFT would prepare the next job's model for it, in a way of its own.
        base.activation_checkpointing_disable()
        unfuse(model)
        model.unload()


def lora_config(base: PreTrainedModel, lora: Lora) -> LoraConfig:
    """Raises `Untrainable` if the base has no such layer."""
    return LoraConfig(
        # PEFT has none for encoders.
        task_type=None if base.config.model_type in ENCODERS else "CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
        target_modules=targets_of(base, lora),
        target_parameters=parameters_of(base, lora) or None,
        use_rslora=lora.rslora,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
    )


def targets_of(base: PreTrainedModel, lora: Lora) -> list[str]:
    """For PEFT: the last parts of the layers' names where they name these layers and no others,
    else their whole names. A regular expression is not handed on: nothing else may be searched with
    it, see `matching`.
    """
    found, asked = layers_of(base, lora), lora.target_modules
    last = sorted({name.rpartition(".")[2] for name in found})
    short = list(asked) if isinstance(asked, tuple) else last
    named = {
        name for name, _ in base.named_modules() if any(ends(name, target) for target in short)
    }
    return short if named == set(found) else found


def layers_of(base: PreTrainedModel, lora: Lora) -> list[str]:
    """The whole names of the linear layers that are adapted."""
    try:
        return matching(linear_layers(base), lora.target_modules)
    except InvalidRequest as error:
        raise Untrainable("target_modules_refused", error.message) from error


def parameters_of(base: PreTrainedModel, lora: Lora) -> list[str]:
    """The whole names of the experts' parameters that are adapted."""
    ours = [
        f"{name}.{parameter}"
        for name, module in modules_with_experts(base)
        for parameter in parameters_in(module)
    ]
    try:
        return experts_matching(ours, lora.target_parameters)
    except InvalidRequest as error:
        raise Untrainable("target_parameters_refused", error.message) from error


def adapted_in(model: PeftModel) -> set[str]:
    """The names of the layers and the experts' parameters with an adapter."""
    base = model.get_base_model()
    layers = {
        name
        for name, layer in base.named_modules()
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper)
    }
    return layers | adapters_of_experts(base).keys()


def linear_layers(base: PreTrainedModel) -> list[str]:
    """The whole names of those that can be adapted: plain ones of the language model, without the
    head and without what chooses between experts. PEFT refuses some of Mamba's.
    """
    head = base.get_output_embeddings()
    refused = REFUSED_OF_MAMBA if base.config.model_type in MAMBAS else frozenset()
    among: PreTrainedModel = base
    if base.config.get_text_config() is not base.config:
        among = base.get_decoder()
    ours, routers = set(among.modules()), routers_of(base)
    return [
        name
        for name, module in base.named_modules()
        if module in ours
        and type(module) in LINEAR
        and module is not head
        and name.rpartition(".")[2] not in refused
        and name not in routers
    ]


def with_adapter(base: PreTrainedModel, config: LoraConfig) -> PeftModel:
    with as_named(), shown(base):
        return cast("PeftModel", get_peft_model(base, config, autocast_adapter_dtype=True))


@contextmanager
def as_named() -> Iterator[None]:
    """In it PEFT adapts the layers that are named and no others: it would rewrite the names for
    families whose layers had others in transformers 4. PEFT 0.21 asks transformers 5.23 for an
    attribute by its older name.
    """
    with warnings.catch_warnings(), patch(REWRITING):
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def new_slot(
    model: PeftModel | PreTrainedModel,
    spec: TrainingSpec,
    plan: Plan,
    way: Way = "packed",
    shards: Shards | None = None,
) -> Slot:
    slot = Slot(model, new_optimizer(trained_parameters(model), spec), plan, way, shards)
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
