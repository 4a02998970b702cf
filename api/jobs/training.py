"""How a job is to be trained, by the names that the field's guides use."""

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from api.files.schemas import ColumnNames
from api.http.shapes import Request, storable
from tunery import other_names
from tunery.data.named_templates import MOST_CHARACTERS
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
    return other_names.OPTIMIZERS.get(name, name) if isinstance(name, str) else name


Target = Annotated[str, Field(max_length=256)]
Targets = Annotated[
    Target | Annotated[list[Target], Field(max_length=64)], BeforeValidator(named_targets)
]
TargetsOrNone = Annotated[Targets | None, Field(examples=["all-linear", ["q_proj", "v_proj"]])]
Parameters = Annotated[
    Annotated[list[Target], Field(min_length=1, max_length=64)] | None,
    Field(examples=[["experts.gate_up_proj", "experts.down_proj"]]),
]
OptimizerName = Annotated[Optimizer, BeforeValidator(canonical)]


def only_those(found: dict[str, str]) -> dict[str, str]:
    if not found.keys() <= other_names.WITHOUT_EFFECT:
        raise ValueError("is found by the service; leave it out")
    return {name: reason[:256] for name, reason in found.items()}


# Settings of other programs that were given and change nothing, with the reason: found by the
# request itself, and kept with it.
WithoutEffect = SkipJsonSchema[Annotated[dict[str, str], AfterValidator(only_those)]]
Rank = Annotated[int, Field(ge=1, le=256, strict=True, examples=[16])]
Alpha = Annotated[int, Field(ge=1, le=1024, strict=True, examples=[32])]
Dropout = Annotated[Share, Field(examples=[0.05])]


class LoraSettings(Request):
    """The adapter. A setting that is null, left out or "auto" is decided by the service, or is as
    in the adapter that the job goes on from.
    """

    r: Rank | None = None
    """Rank of the adapter; by default 16, or 32 for more than 20,000 rows."""
    alpha: Alpha | None = None
    """The adapter is scaled by alpha / r; by default 32."""
    dropout: Dropout | None = None
    """Fraction of the adapter's inputs that training drops at random; by default 0."""
    target_modules: TargetsOrNone = None
    """Layers with an adapter, as PEFT has them: a list of the ends of their names, one regular
    expression for whole names, or "all-linear", the default: every linear layer but the head.
    """
    target_parameters: Parameters = None
    """Parameters of a mixture's experts with an adapter too, as PEFT has them: a list of the ends
    of their names; by default none. They take no `dropout`.
    """
    rslora: bool | None = None
    """Whether the scale is alpha / sqrt(r) instead; by default false."""
    without_effect: WithoutEffect = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def by_our_names(cls, asked: Any) -> Any:  # noqa: ANN401
        return in_our_words(asked, cls.model_fields, other_names.LORA)


class TrainingSettings(Request):
    """How a job is trained. A setting that is null, left out or "auto" is decided by the service,
    with a reason on the job. A setting that is given under two names must have one value.
    """

    finetuning_type: Literal["lora", "full"] | None = None
    """What is trained: an adapter (`lora`, the default) or the model's own weights (`full`)."""
    num_epochs: Annotated[int, Field(ge=1, le=50, strict=True, examples=[3])] | None = None
    """The same as `n_epochs` of `hyperparameters`."""
    micro_batch_size: Annotated[Count, Field(examples=[4])] | None = None
    """Maximum number of rows computed at once. It does not change the result of a step."""
    gradient_accumulation_steps: Annotated[Count, Field(examples=[2])] | None = None
    """Micro-batches per optimizer step. Their product with `micro_batch_size` is the batch size, at
    most 256.
    """
    gpus: Annotated[int, Field(ge=1, le=64, strict=True, examples=[2])] | None = None
    """Number of GPUs of one worker that train it together; by default 1. Each computes its
    part of each step, and holds the whole base; if it does not fit one, a part of its layers.
    """
    learning_rate: Annotated[Number, Field(gt=0, le=1, examples=[0.0002])] | None = None
    """The peak learning rate itself, instead of `learning_rate_multiplier`."""
    lr_scheduler: Scheduler | None = None
    """How the learning rate changes after the warm-up, by its name in transformers; by default
    `linear`.
    """
    warmup_ratio: Annotated[Share, Field(examples=[0.05])] | None = None
    """Fraction of all steps in which the learning rate rises to its peak; by default 0.05, or 0 for
    `constant`, which takes no other.
    """
    optimizer: OptimizerName | None = None
    """The optimizer, by its name in transformers; by default `adamw_torch`."""
    weight_decay: Annotated[Number, Field(ge=0, le=10, examples=[0.01])] | None = None
    """The optimizer's weight decay; by default 0, or 0.01 for the model's own weights."""
    max_grad_norm: Annotated[Number, Field(gt=0, le=1e6, examples=[1.0])] | None = None
    """Norm that a step's gradient is clipped to; by default 1."""
    max_length: Annotated[Length, Field(examples=[1024])] | None = None
    """Maximum number of tokens in a row; by default the base model's context."""
    max_seq_length: Annotated[Length, Field(examples=[1024])] | None = None
    """The same as `max_length`."""
    overflow: Overflow | None = None
    """What happens to a row longer than `max_length`: `cut` drops its end; `split`, the default for
    texts, makes several rows of it.
    """
    sample_packing: bool | None = None
    """False: rows are computed one at a time, or `micro_batch_size` of them. True or null: as many
    as memory allows are packed together.
    """
    train_on_inputs: bool | None = None
    """Whether all of a row is trained on, prompts too; by default false."""
    train_on_reasoning: bool | None = None
    """Whether the reasoning before an answer (`reasoning_content`, or `<think>` in its text) is
    trained on; by default true. If false, the model reads it and only what follows is trained.
    """
    quantization: Quantization = "auto"
    """What the base is trained in: 4 bits (`nf4`, `fp4`), 8 bits (`int8`) or 16 (`none`). With
    `auto` it is 16 bits if that fits the worker's device, else `nf4`.
    """
    load_in_4bit: bool | None = None
    """True: the base is trained in 4 bits. False: it is not quantized, unless `load_in_8bit` or
    `bnb_4bit_quant_type` asks for that.
    """
    load_in_8bit: bool | None = None
    """True: the base is trained in 8 bits, `int8`."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = None
    """The kind of 4 bits; by default `nf4`."""
    bnb_4bit_use_double_quant: bool | None = None
    """Whether the scales of a base in 4 bits are quantized too; by default true."""
    lora_r: Rank | None = None
    """The same as `r` of `lora`."""
    lora_alpha: Alpha | None = None
    """The same as `alpha` of `lora`."""
    lora_dropout: Dropout | None = None
    """The same as `dropout` of `lora`."""
    lora_target_modules: TargetsOrNone = None
    """The same as `target_modules` of `lora`."""
    lora_target_parameters: Parameters = None
    """The same as `target_parameters` of `lora`."""
    early_stopping_patience: (
        Annotated[int, Field(ge=1, le=50, strict=True, examples=[2])] | None
    ) = None
    """Number of evaluations in a row without a new best after which the training ends; by default
    it runs for all epochs.
    """
    load_best_model_at_end: bool | None = None
    """Whether the weights of the best evaluation are published instead of the last step's; by
    default false.
    """
    samples: Annotated[int, Field(ge=0, le=16, strict=True, examples=[3])] | None = None
    """Number of validation rows that the model answers at the end of each epoch; by default 3, or
    0 for `masked_lm` and without a validation file.
    """
    warmup_steps: Annotated[int, Field(ge=0, le=100_000, strict=True, examples=[10])] | None = None
    """Number of steps in which the learning rate rises to its peak, instead of `warmup_ratio`."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000, strict=True, examples=[100])] | None = None
    """Number of steps after which the training ends; by default it runs for all epochs. Without a
    number of epochs there are as many as that takes.
    """
    validation_split: Annotated[Number, Field(gt=0, lt=1, examples=[0.1])] | None = None
    """Fraction of the training file's rows, chosen by the seed, that is validated on and not
    trained on. It stands in for a validation file.
    """
    columns: ColumnNames | None = None
    """The files' own names for the fields of a row, by ours, for files that were uploaded without
    `columns` and cannot be read so. They are checked again with them.
    """
    chat_template: (
        Annotated[
            str,
            Field(min_length=1, max_length=MOST_CHARACTERS, examples=["chatml"]),
            AfterValidator(storable),
        ]
        | None
    ) = None
    """Chat template instead of the base's own, which goes with the result: a name (`alpaca`,
    `chatml`, `gemma`, `llama3`, `mistral`, `phi3`, `vicuna`, `zephyr`), or Jinja.
    """
    max_lost_share: Annotated[Number, Field(ge=0, le=1, examples=[0.05])] | None = None
    """Largest fraction of a file's rows that may be left out, or trained without something that
    they say, because the chat template does not write it; by default 0.05.
    """

    adam_beta1: Annotated[Share, Field(examples=[0.9])] | None = None
    """AdamW's decay of the gradients' mean; by default 0.9."""
    adam_beta2: Annotated[Share, Field(examples=[0.95])] | None = None
    """AdamW's decay of the squared gradients' mean; by default 0.999."""
    adam_epsilon: Annotated[Number, Field(gt=0, le=1, examples=[1e-5])] | None = None
    """What AdamW adds to the root that it divides by; by default 1e-8."""
    min_lr_ratio: Annotated[Number, Field(ge=0, le=1, examples=[0.1])] | None = None
    """Fraction of the peak learning rate where `cosine_with_min_lr` ends; by default 0.1."""
    loraplus_lr_ratio: Annotated[Number, Field(gt=0, le=1000, examples=[16.0])] | None = None
    """LoRA+: the learning rate of an adapter's B is so many times that of its A; by default it is
    the same.
    """

    without_effect: WithoutEffect = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def by_our_names(cls, asked: Any) -> Any:  # noqa: ANN401
        return in_our_words(asked, cls.model_fields, other_names.TRAINING)


def in_our_words(
    asked: Any,  # noqa: ANN401 (whatever was sent)
    known: Container[str],
    names: dict[str, str],
) -> Any:  # noqa: ANN401
    """By our names, and without "auto", which is the same as nothing. What is not known stays, to
    be refused.
    """
    if not isinstance(asked, dict):
        return asked
    found, without_effect = other_names.in_our_names(asked, names)
    found = {name: value for name, value in found.items() if value != "auto" or name not in known}
    return {"without_effect": without_effect} | found if without_effect else found
