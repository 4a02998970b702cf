"""The settings of a request, each under one name, and those that contradict each other."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from api.jobs.requests import CreateJob
from tunery.errors import InvalidRequest
from tunery.spec import Quantization

MOST_ROWS = 256
OF_ADAMW = ("adam_beta1", "adam_beta2", "adam_epsilon")


@dataclass(frozen=True)
class Named:
    """What a request names, each setting once; None is for us to decide."""

    n_epochs: int | None
    batch_size: int | None
    micro_batch_size: int | None
    learning_rate: float | None
    max_length: int | None
    quantization: Quantization | None
    r: int | None
    alpha: int | None
    dropout: float | None
    target_modules: str | tuple[str, ...] | None
    target_parameters: tuple[str, ...] | None


def named(asked: CreateJob) -> Named:
    """Raises one `InvalidRequest` with all contradictions; its `param` is that of the first."""
    training, lora, settings = asked.training, asked.lora, asked.settings
    faults = list(contradictions(asked))

    def one_of(given: dict[str, Any]) -> Any:  # noqa: ANN401 (any setting's)
        with added_to(faults):
            return the_one_of(given)

    place = "hyperparameters"
    if asked.method:
        place = f"method.{asked.method_type}.hyperparameters"
    n_epochs = one_of(
        {f"{place}.n_epochs": number(settings.n_epochs), "training.num_epochs": training.num_epochs}
    )
    batch_size, micro = number(settings.batch_size), training.micro_batch_size
    if times := training.gradient_accumulation_steps:
        micro = micro or max(1, (batch_size or 1) // times)
        product = "training.micro_batch_size * training.gradient_accumulation_steps"
        batch_size = one_of({f"{place}.batch_size": batch_size, product: micro * times})
        if micro * times > MOST_ROWS:
            faults.append(
                InvalidRequest(
                    f"{product} is {micro * times} rows a step, {MOST_ROWS} are the most. Lower "
                    "one.",
                    param="training.gradient_accumulation_steps",
                )
            )
    if training.sample_packing is False and micro is None:
        micro = 1
    targets = one_of(
        {
            "lora.target_modules": listed(lora.target_modules),
            "training.lora_target_modules": listed(training.lora_target_modules),
        }
    )
    parameters = one_of(
        {
            "lora.target_parameters": listed(lora.target_parameters),
            "training.lora_target_parameters": listed(training.lora_target_parameters),
        }
    )
    dropout = one_of({"lora.dropout": lora.dropout, "training.lora_dropout": training.lora_dropout})
    if parameters and dropout:
        faults.append(
            InvalidRequest(
                "lora.target_parameters puts adapters on experts, which PEFT has without dropout, "
                f"and lora.dropout is {dropout}. Leave one of the two out.",
                param="lora.target_parameters",
            )
        )
    quantization = None
    with added_to(faults):
        quantization = quantization_of(asked)
    found = Named(
        n_epochs=n_epochs,
        batch_size=batch_size,
        micro_batch_size=micro,
        learning_rate=training.learning_rate,
        max_length=one_of(
            {
                "training.max_length": training.max_length,
                "training.max_seq_length": training.max_seq_length,
            }
        ),
        quantization=quantization,
        r=one_of({"lora.r": lora.r, "training.lora_r": training.lora_r}),
        alpha=one_of({"lora.alpha": lora.alpha, "training.lora_alpha": training.lora_alpha}),
        dropout=dropout,
        target_modules=targets,
        target_parameters=parameters,
    )
    if faults:
        raise InvalidRequest(" ".join(each.message for each in faults), param=faults[0].param)
    return found


@contextmanager
def added_to(faults: list[InvalidRequest]) -> Iterator[None]:
    """A refusal ends what is within, and waits to be told with the others."""
    try:
        yield
    except InvalidRequest as fault:
        faults.append(fault)


def contradictions(asked: CreateJob) -> Iterator[InvalidRequest]:
    """Of settings that exclude each other, whatever their values are by other names."""
    training, settings = asked.training, asked.settings
    if training.learning_rate is not None and settings.learning_rate_multiplier != "auto":
        yield InvalidRequest(
            "training.learning_rate is the rate itself, learning_rate_multiplier scales the usual "
            "one. Give one of them.",
            param="training.learning_rate",
        )
    if training.train_on_inputs and asked.method_type != "supervised":
        yield InvalidRequest(
            f"training.train_on_inputs has no meaning for the method {asked.method_type}: leave it "
            "out. The method supervised has prompts to train on.",
            param="training.train_on_inputs",
        )
    for name in ("early_stopping_patience", "load_best_model_at_end", "samples"):
        validated = asked.validation_file or training.validation_split
        if getattr(training, name) and not validated:
            yield InvalidRequest(
                f"training.{name} goes by the validation rows. Give a validation_file or "
                "training.validation_split, or leave it out.",
                param=f"training.{name}",
            )
    if training.train_on_reasoning is False and (
        training.train_on_inputs or asked.method_type == "masked_lm"
    ):
        whole = "train_on_inputs" if training.train_on_inputs else "the method masked_lm"
        raise InvalidRequest(
            f"training.train_on_reasoning is false, and {whole} trains all of a row. Leave one of "
            "the two out.",
            param="training.train_on_reasoning",
        )
    if training.validation_split and asked.validation_file:
        yield InvalidRequest(
            "training.validation_split takes rows of the training file to validate on, and there "
            "is a validation_file. Give one of them.",
            param="training.validation_split",
        )
    if training.warmup_steps is not None and training.warmup_ratio is not None:
        yield InvalidRequest(
            "training.warmup_steps and training.warmup_ratio both say how long the warm-up is. "
            "Give one of them.",
            param="training.warmup_steps",
        )
    if training.chat_template and asked.method_type == "masked_lm":
        yield InvalidRequest(
            "training.chat_template writes chats, and masked_lm learns from texts. Leave it out.",
            param="training.chat_template",
        )
    if training.samples and asked.method_type == "masked_lm":
        yield InvalidRequest(
            "training.samples are answers, and an encoder, which masked_lm trains, gives none. "
            "Leave it out.",
            param="training.samples",
        )
    for name in ("warmup_ratio", "warmup_steps"):
        if training.lr_scheduler == "constant" and getattr(training, name):
            yield InvalidRequest(
                f"training.lr_scheduler constant has no warm-up, which training.{name} asks for. "
                "Leave that out, or take constant_with_warmup.",
                param=f"training.{name}",
            )
    own = [name for name in OF_ADAMW if getattr(training, name) is not None]
    if own and not (training.optimizer or "adamw_torch").removeprefix("paged_").startswith("adamw"):
        yield InvalidRequest(
            f"training.{own[0]} is a setting of AdamW, and training.optimizer is "
            f"{training.optimizer}. Leave one out.",
            param=f"training.{own[0]}",
        )
    if training.min_lr_ratio is not None and training.lr_scheduler != "cosine_with_min_lr":
        yield InvalidRequest(
            "training.min_lr_ratio says where cosine_with_min_lr ends, and training.lr_scheduler "
            f"is {training.lr_scheduler or 'linear'}. Name that one, or leave min_lr_ratio out.",
            param="training.min_lr_ratio",
        )
    if training.finetuning_type == "full":
        yield from beside_full(asked)


def beside_full(asked: CreateJob) -> Iterator[InvalidRequest]:
    """Settings of adapters, or of a base that cannot be trained itself."""
    given = {f"lora.{name}": value for name, value in asked.lora if value not in (None, {})}
    given |= {
        f"training.{name}": value
        for name, value in asked.training
        if name.startswith("lora") and value is not None
    }
    for name in given:
        yield InvalidRequest(
            f"{name} is a setting of adapters, and training.finetuning_type is full, which trains "
            "the model's own weights. Give one of them.",
            param=name,
        )
    quantization = None
    with suppress(InvalidRequest):  # which is told anyway
        quantization = quantization_of(asked)
    if quantization not in {None, "none"}:
        yield InvalidRequest(
            f"Weights in {quantization} cannot be trained themselves, which "
            "training.finetuning_type full does. Leave the quantization out, or train an adapter: "
            'finetuning_type "lora".',
            param="training.finetuning_type",
        )
    try:
        refuse_double_quant_of(asked, "none")
    except InvalidRequest as fault:
        yield fault


def refuse_double_quant_of(asked: CreateJob, quantization: Quantization | None) -> None:
    """Only a base in 4 bits has scales to be quantized too."""
    if quantization not in {"int8", "none"}:
        return
    if asked.training.bnb_4bit_use_double_quant is not None:
        raise InvalidRequest(
            "training.bnb_4bit_use_double_quant is a setting of a base in 4 bits, this one is to "
            f"be in {quantization}. Leave it out.",
            param="training.bnb_4bit_use_double_quant",
        )


def quantization_of(asked: CreateJob) -> Quantization | None:
    """The one that all of its names agree on."""
    training = asked.training
    four, eight = training.load_in_4bit, training.load_in_8bit
    if four and eight:
        raise InvalidRequest(
            "training.load_in_4bit and training.load_in_8bit exclude each other. Give one.",
            param="training.load_in_8bit",
        )
    by_flags: str | None = None
    if four:
        by_flags = training.bnb_4bit_quant_type or "nf4"
    elif eight:
        by_flags = "int8"
    elif four is False:
        by_flags = None if eight is None and training.bnb_4bit_quant_type else "none"
    by_name = None if training.quantization == "auto" else training.quantization
    found = the_one_of(
        {
            "training.quantization": by_name,
            "training.load_in_8bit" if eight else "training.load_in_4bit": by_flags,
        }
    )
    kind = training.bnb_4bit_quant_type
    if kind is not None and found is None:
        found = kind
    if kind is not None and kind != found:
        raise InvalidRequest(
            f"training.bnb_4bit_quant_type is {kind}, the base is to be in {found}. Leave one out.",
            param="training.bnb_4bit_quant_type",
        )
    refuse_double_quant_of(asked, found)
    return cast("Quantization | None", found)


def the_one_of(given: dict[str, Any]) -> Any:  # noqa: ANN401 (any setting's)
    """The value of a setting with several names; None if none is given."""
    found = [(name, value) for name, value in given.items() if value is not None]
    if len(found) > 1 and found[0][1] != found[1][1]:
        (one, has), (other, had) = found
        raise InvalidRequest(
            f"{one} is {has} and {other} is {had}, which are one setting. Give one of them.",
            param=other,
        )
    return found[0][1] if found else None


def number(value: Any) -> Any:  # noqa: ANN401 (a setting's)
    return None if value == "auto" else value


def listed(targets: str | list[str] | None) -> str | tuple[str, ...] | None:
    return tuple(targets) if isinstance(targets, list) else targets
