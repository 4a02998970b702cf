"""From a request to the frozen spec: each setting under one name, and what `auto` becomes."""

from dataclasses import dataclass
from typing import Any, cast

from api.jobs.estimates import forecast
from api.jobs.requests import CreateJob, MaskedLmHyperparameters, PreferenceHyperparameters
from api.models.tuned import Source
from api.tables import BaseModel, File
from tunery import exports
from tunery.errors import InvalidRequest
from tunery.plan import auto
from tunery.plan.auto import Resolved
from tunery.spec import (
    DataFile,
    Lora,
    MaskedLm,
    Objective,
    Preference,
    Quantization,
    StartingAdapter,
    Supervised,
    TrainingSpec,
)

WEIGHT_DECAY_OF_ALL = 0.01
MOST_ROWS = 256
SAMPLES = 3


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


def named(asked: CreateJob) -> Named:
    """Raises `InvalidRequest` for settings that contradict each other."""
    training, lora, settings = asked.training, asked.lora, asked.settings
    refuse_contradictions(asked)
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
        if batch_size > MOST_ROWS:
            raise InvalidRequest(
                f"{product} is {batch_size} rows a step, {MOST_ROWS} are the most. Lower one.",
                param="training.gradient_accumulation_steps",
            )
    if training.sample_packing is False and micro is None:
        micro = 1
    targets = one_of(
        {
            "lora.target_modules": listed(lora.target_modules),
            "training.lora_target_modules": listed(training.lora_target_modules),
        }
    )
    return Named(
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
        quantization=quantization_of(asked),
        r=one_of({"lora.r": lora.r, "training.lora_r": training.lora_r}),
        alpha=one_of({"lora.alpha": lora.alpha, "training.lora_alpha": training.lora_alpha}),
        dropout=one_of(
            {"lora.dropout": lora.dropout, "training.lora_dropout": training.lora_dropout}
        ),
        target_modules=targets,
    )


def refuse_contradictions(asked: CreateJob) -> None:
    training, settings = asked.training, asked.settings
    if training.learning_rate is not None and settings.learning_rate_multiplier != "auto":
        raise InvalidRequest(
            "training.learning_rate is the rate itself, learning_rate_multiplier scales the usual "
            "one. Give one of them.",
            param="training.learning_rate",
        )
    if training.train_on_inputs and asked.method_type != "supervised":
        raise InvalidRequest(
            f"training.train_on_inputs has no meaning for the method {asked.method_type}: leave it "
            "out. The method supervised has prompts to train on.",
            param="training.train_on_inputs",
        )
    for name in ("early_stopping_patience", "load_best_model_at_end", "samples"):
        if getattr(training, name) and asked.validation_file is None:
            raise InvalidRequest(
                f"training.{name} goes by the validation rows. Give a validation_file, or leave it "
                "out.",
                param=f"training.{name}",
            )
    if training.samples and asked.method_type == "masked_lm":
        raise InvalidRequest(
            "training.samples are answers, and an encoder, which masked_lm trains, gives none. "
            "Leave it out.",
            param="training.samples",
        )
    if training.lr_scheduler == "constant" and training.warmup_ratio:
        raise InvalidRequest(
            "training.lr_scheduler constant has no warm-up, which training.warmup_ratio asks for. "
            "Leave that out, or take constant_with_warmup.",
            param="training.warmup_ratio",
        )
    if training.finetuning_type == "full":
        refuse_beside_full(asked)


def refuse_beside_full(asked: CreateJob) -> None:
    """Settings of adapters, or of a base that cannot be trained itself."""
    given = {f"lora.{name}": value for name, value in asked.lora if value is not None}
    given |= {
        f"training.{name}": value
        for name, value in asked.training
        if name.startswith("lora_") and value is not None
    }
    for name in given:
        raise InvalidRequest(
            f"{name} is a setting of adapters, and training.finetuning_type is full, which trains "
            "the model's own weights. Give one of them.",
            param=name,
        )
    quantization = quantization_of(asked)
    if quantization not in {None, "none"}:
        raise InvalidRequest(
            f"Weights in {quantization} cannot be trained themselves, which "
            "training.finetuning_type full does. Leave the quantization out, or train an adapter: "
            'finetuning_type "lora".',
            param="training.finetuning_type",
        )
    refuse_double_quant_of(asked, "none")


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
    found = one_of(
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


def one_of(given: dict[str, Any]) -> Any:  # noqa: ANN401 (any setting's)
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


def freeze(
    asked: CreateJob, base: BaseModel, source: Source | None, data: dict[str, File], *, seed: int
) -> tuple[TrainingSpec, Resolved]:
    """The spec of a request on checked files, and how each `auto` in it came to be.

    Raises:
        InvalidRequest: an export that was asked for could not be made of the result.

    """
    wanted, training = named(asked), asked.training
    full = training.finetuning_type == "full"
    file = data["training_file"]
    resolved = auto.resolve(
        rows=forecast.rows_of(file),
        architecture=base.architecture,
        hidden_size=base.hidden_size,
        n_epochs=wanted.n_epochs or "auto",
        batch_size=wanted.batch_size or "auto",
        learning_rate_multiplier=asked.settings.learning_rate_multiplier,
        learning_rate=wanted.learning_rate or "auto",
        objective=asked.method_type,
        full=full,
    )
    reasons = resolved.reasons
    settings: dict[str, Any] = {}

    def decide(name: str, value: Any, otherwise: Any, why: str) -> None:  # noqa: ANN401
        settings[name] = otherwise if value is None else value
        if value is None:
            reasons[name] = why

    decide("optimizer", training.optimizer, "adamw_torch", "AdamW suits nearly all trainings")
    decide("lr_scheduler", training.lr_scheduler, "linear", "the rate falls evenly to 0")
    if settings["lr_scheduler"] == "constant":
        decide("warmup_ratio", training.warmup_ratio, 0.0, "a constant rate has no warm-up")
    else:
        decide("warmup_ratio", training.warmup_ratio, 0.05, "a twentieth of the steps to warm up")
    decay = WEIGHT_DECAY_OF_ALL if full else 0.0
    why = "the usual decay of all weights" if full else "an adapter is small enough without"
    decide("weight_decay", training.weight_decay, decay, why)
    decide("max_grad_norm", training.max_grad_norm, 1.0, "the usual bound of a step's gradient")
    longest = base.context_length
    decide("max_length", wanted.max_length, longest, f"the context of {base.id}")
    texts = set((file.report or {}).get("formats", ())) == {"text"}
    why = "each part of a text is worth training on" if texts else "an answer cannot be split"
    decide("overflow", training.overflow, "split" if texts else "cut", why)
    answers = 0 if asked.method_type == "masked_lm" or "validation_file" not in data else SAMPLES
    decide("samples", training.samples, answers, "rows of the validation file that are answered")
    why = "a file that loses more is probably meant for another template"
    decide("max_lost_share", training.max_lost_share, 0.05, why)
    spec = TrainingSpec(
        base_model=base.id,
        base_revision=base.revision,
        training_file=data_file(file),
        validation_file=data_file(data["validation_file"]) if "validation_file" in data else None,
        seed=seed,
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=resolved.learning_rate,
        lora=None if full else lora_of(wanted, asked, source, forecast.rows_of(file), reasons),
        quantization="none" if full else base_precision(wanted, source, reasons),
        adapter=StartingAdapter(model=source.model, sha256=source.sha256) if source else None,
        objective=objective_of(asked),
        double_quant=double_quant(asked, source),
        train_on_inputs=bool(training.train_on_inputs),
        micro_batch_size=wanted.micro_batch_size,
        early_stopping_patience=training.early_stopping_patience,
        load_best_model_at_end=bool(training.load_best_model_at_end),
        **settings,
    )
    for export in asked.exports or ():
        exports.refuse(
            export.format,
            architecture=base.architecture,
            lora=spec.lora,
            not_for_ollama=base.not_for_ollama,
        )
    return spec, resolved


def lora_of(
    wanted: Named, asked: CreateJob, source: Source | None, rows: int, reasons: dict[str, str]
) -> Lora:
    """The adapter, which keeps the shape of one that it goes on from."""
    dropout = wanted.dropout or 0.0
    if source:
        reasons["lora"] = f"r {source.r} and alpha {source.alpha} are {source.model}'s"
        return Lora(**source.shape, dropout=dropout)
    r, alpha = wanted.r, wanted.alpha
    if r is None:
        r, reasons["lora.r"] = auto.rank_for(rows)
    if alpha is None:
        alpha, reasons["lora.alpha"] = 32, "with it the best rate hardly depends on r"
    return Lora(
        r=r,
        alpha=alpha,
        dropout=dropout,
        target_modules=wanted.target_modules or "all-linear",
        rslora=bool(asked.lora.rslora),
    )


def refuse_another_shape(asked: CreateJob, source: Source) -> None:
    """A training that goes on from an adapter keeps its shape."""
    wanted = named(asked)
    if asked.training.finetuning_type == "full":
        raise InvalidRequest(
            f"{source.model} is an adapter, and training.finetuning_type is full. Name the base "
            "model to train that as a whole.",
            param="training.finetuning_type",
        )
    if not wanted.quantization:
        refuse_double_quant_of(asked, source.quantization)
    targets = source.target_modules
    has = source.shape | {"target_modules": listed(targets)}
    rslora = asked.lora.rslora
    for name, value in has.items():
        given = rslora if name == "rslora" else getattr(wanted, name)
        if given is not None and given != value:
            said = f"lora.{name}"
            if getattr(asked.lora, name) is None:
                said = f"training.lora_{name}"
            raise InvalidRequest(
                f"{said} is {given}, {source.model} has {value}, and what goes on from it "
                f"keeps that. Leave {said} out.",
                param=said,
            )


def base_precision(wanted: Named, source: Source | None, reasons: dict[str, str]) -> Quantization:
    if wanted.quantization:
        return wanted.quantization
    if source and source.quantization != "auto":
        reasons["quantization"] = f"{source.model} was trained on the base like that"
        return source.quantization
    reasons["quantization"] = "the first worker decides by its memory, and an event says how"
    return "auto"


def double_quant(asked: CreateJob, source: Source | None) -> bool:
    wanted = asked.training.bnb_4bit_use_double_quant
    if wanted is None:
        return source.double_quant if source else True
    return wanted


def objective_of(asked: CreateJob) -> Objective:
    settings = asked.settings
    if isinstance(settings, PreferenceHyperparameters):
        return Preference() if settings.beta == "auto" else Preference(beta=settings.beta)
    if isinstance(settings, MaskedLmHyperparameters):
        chance = settings.mask_probability
        return MaskedLm() if chance == "auto" else MaskedLm(mask_probability=chance)
    return Supervised()


def data_file(file: File) -> DataFile:
    return DataFile(id=file.id, sha256=file.sha256, rows=forecast.rows_of(file))
