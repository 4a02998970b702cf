"""How a job is to be trained, by the names that the field's guides use."""

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from api.http.shapes import Request, storable
from tunery.spec import Optimizer, Overflow, Quantization, Scheduler

Count = Annotated[int, Field(ge=1, le=256, strict=True)]
# No context is as long as the bound, above which no answer to a repeat could be kept.
Length = Annotated[int, Field(ge=8, lt=2**31, strict=True)]


def no_truth(value: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    """True is 1 to Python, and would be a learning rate."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 (pydantic's way)
    return value


Number = Annotated[float, BeforeValidator(no_truth)]
Share = Annotated[Number, Field(ge=0, lt=1)]


def named_targets(asked: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not 0 < len(names) <= 64:
        raise ValueError('must be "all-linear", a regular expression, or a list of up to 64 names')
    if not all(isinstance(name, str) and 0 < len(name) <= 256 for name in names):
        raise ValueError("must hold names of 1 to 256 characters")
    for name in names:
        storable(name)
    return asked


def canonical(name: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    return OTHER_NAMES.get(name, name) if isinstance(name, str) else name


OTHER_NAMES = {"adamw_torch_fused": "adamw_torch", "adamw_bnb_8bit": "adamw_8bit"}
Target = Annotated[str, Field(max_length=256)]
Targets = Annotated[
    Target | Annotated[list[Target], Field(max_length=64)], BeforeValidator(named_targets)
]
OptimizerName = Annotated[Optimizer, BeforeValidator(canonical)]


class LoraSettings(Request):
    """As in `tunery.spec.Lora`."""

    r: Annotated[int, Field(ge=1, le=256, strict=True)] | None = None
    alpha: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    dropout: Share | None = None
    target_modules: Targets | None = None
    rslora: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def auto_is_none(cls, asked: Any) -> Any:  # noqa: ANN401
        return without_auto(asked, cls.model_fields)


class TrainingSettings(Request):
    """What is left out, or "auto", is decided here, with a reason on the job. Two names of one
    setting may be given with one value only: `num_epochs`, `learning_rate` and `lora_*` are the
    settings of `hyperparameters` and `lora`, the batch size is `micro_batch_size` times
    `gradient_accumulation_steps`, `load_in_*` and `bnb_4bit_quant_type` are a `quantization`.

    `max_length` in tokens, by default the base's context: longer rows are cut there, or split into
    several (`overflow`). Of the validation file's rows so many `samples` are answered by the model
    at each epoch's end. `micro_batch_size` is the most rows that are computed at once, without
    `sample_packing` one: how a step is cut does not change it here.

    A file is refused if more than `max_lost_share` of its rows, by default a twentieth, would be
    left out or lose something that they say.
    """

    finetuning_type: Literal["lora", "full"] | None = None
    num_epochs: Annotated[int, Field(ge=1, le=50, strict=True)] | None = None
    micro_batch_size: Count | None = None
    gradient_accumulation_steps: Count | None = None
    learning_rate: Annotated[Number, Field(gt=0, le=1)] | None = None
    lr_scheduler: Scheduler | None = None
    warmup_ratio: Share | None = None
    optimizer: OptimizerName | None = None
    weight_decay: Annotated[Number, Field(ge=0, le=10)] | None = None
    max_grad_norm: Annotated[Number, Field(gt=0, le=1e6)] | None = None
    max_length: Length | None = None
    max_seq_length: Length | None = None
    overflow: Overflow | None = None
    sample_packing: bool | None = None
    train_on_inputs: bool | None = None
    quantization: Quantization = "auto"
    load_in_4bit: bool | None = None
    load_in_8bit: bool | None = None
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = None
    bnb_4bit_use_double_quant: bool | None = None
    lora_r: Annotated[int, Field(ge=1, le=256, strict=True)] | None = None
    lora_alpha: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    lora_dropout: Share | None = None
    lora_target_modules: Targets | None = None
    early_stopping_patience: Annotated[int, Field(ge=1, le=50, strict=True)] | None = None
    load_best_model_at_end: bool | None = None
    samples: Annotated[int, Field(ge=0, le=16, strict=True)] | None = None
    max_lost_share: Annotated[Number, Field(ge=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def auto_is_none(cls, asked: Any) -> Any:  # noqa: ANN401
        return without_auto(asked, cls.model_fields)


def without_auto(asked: Any, known: Container[str]) -> Any:  # noqa: ANN401 (whatever was sent)
    """For "auto" is the same as nothing. What is not known stays, to be refused."""
    if not isinstance(asked, dict):
        return asked
    return {name: value for name, value in asked.items() if value != "auto" or name not in known}
