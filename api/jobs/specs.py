"""From a request to the frozen spec, and what `auto` becomes."""

from typing import Any

from api.jobs.estimates import forecast
from api.jobs.named import Named, listed, named, refuse_double_quant_of
from api.jobs.requests import CreateJob, MaskedLmHyperparameters, PreferenceHyperparameters
from api.models.templates import Chosen, chosen
from api.models.tuned import Source
from api.tables import BaseModel, File
from tunery import exports
from tunery.errors import InvalidRequest
from tunery.plan import auto
from tunery.plan.auto import Resolved
from tunery.spec import (
    DataFile,
    Evaluation,
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
MOST_EPOCHS = 50
SAMPLES = 3


def freeze(
    asked: CreateJob, base: BaseModel, source: Source | None, data: dict[str, File], *, seed: int
) -> tuple[TrainingSpec, Resolved]:
    """The spec of a request on checked files, and how each `auto` in it came to be.

    Raises:
        InvalidRequest: `max_steps` asks for too many epochs, or an export that was asked for could
            not be made of the result.

    """
    wanted, training = named(asked), asked.training
    full = training.finetuning_type == "full"
    file = data["training_file"]

    resolved = resolve(asked, wanted, base, file)
    reasons = resolved.reasons
    settings = decided(asked, wanted, base, data, reasons)
    template, why, _ = template_for(asked, base, source, file)
    if why:
        reasons["chat_template"] = why

    spec = TrainingSpec(
        base_model=base.id,
        base_revision=base.revision,
        training_file=data_file(file),
        validation_file=data_file(data["validation_file"]) if "validation_file" in data else None,
        seed=seed,
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=resolved.learning_rate,
        warmup_steps=training.warmup_steps,
        max_steps=training.max_steps,
        validation_split=training.validation_split,
        chat_template=template,
        lora=None if full else lora_of(wanted, asked, source, forecast.rows_of(file), reasons),
        quantization="none" if full else base_precision(wanted, source, reasons),
        adapter=StartingAdapter(model=source.model, sha256=source.sha256) if source else None,
        objective=objective_of(asked),
        double_quant=double_quant(asked, source),
        train_on_inputs=bool(training.train_on_inputs),
        train_on_reasoning=training.train_on_reasoning is not False,
        micro_batch_size=wanted.micro_batch_size,
        early_stopping_patience=training.early_stopping_patience,
        load_best_model_at_end=bool(training.load_best_model_at_end),
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        min_lr_ratio=training.min_lr_ratio,
        loraplus_lr_ratio=training.loraplus_lr_ratio,
        evaluation=evaluation_of(asked),
        **settings,
    )
    refuse_exports(asked, base, spec)
    return spec, resolved


def resolve(asked: CreateJob, wanted: Named, base: BaseModel, file: File) -> Resolved:
    """Epochs, batch size and learning rate."""
    training = asked.training
    resolved = auto.resolve(
        rows=forecast.rows_of(file),
        architecture=base.architecture,
        hidden_size=base.hidden_size,
        n_epochs=wanted.n_epochs or "auto",
        batch_size=wanted.batch_size or "auto",
        learning_rate_multiplier=asked.settings.learning_rate_multiplier,
        learning_rate=wanted.learning_rate or "auto",
        objective=asked.method_type,
        full=training.finetuning_type == "full",
        max_steps=training.max_steps,
    )
    if resolved.n_epochs > MOST_EPOCHS:
        raise InvalidRequest(
            f"training.max_steps is {training.max_steps}, which is {resolved.n_epochs} epochs of "
            f"this file; {MOST_EPOCHS} are the most. Lower it.",
            param="training.max_steps",
        )
    return resolved


def decided(
    asked: CreateJob,
    wanted: Named,
    base: BaseModel,
    data: dict[str, File],
    reasons: dict[str, str],
) -> dict[str, Any]:
    """The settings that no training goes without: as they were asked for, else as we choose them,
    with the reason in `reasons`.
    """
    training = asked.training
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
    if training.finetuning_type == "full":
        why = "the usual decay of all weights"
        decide("weight_decay", training.weight_decay, WEIGHT_DECAY_OF_ALL, why)
    else:
        why = "an adapter is small enough without"
        decide("weight_decay", training.weight_decay, 0.0, why)
    decide("max_grad_norm", training.max_grad_norm, 1.0, "the usual bound of a step's gradient")

    longest = base.context_length
    decide("max_length", wanted.max_length, longest, f"the context of {base.id}")
    if set((data["training_file"].report or {}).get("formats", ())) == {"text"}:
        why = "each part of a text is worth training on"
        decide("overflow", training.overflow, "split", why)
    else:
        decide("overflow", training.overflow, "cut", "an answer cannot be split")
    why = "a file that loses more is probably meant for another template"
    decide("max_lost_share", training.max_lost_share, 0.05, why)

    validated = "validation_file" in data or training.validation_split
    answers = 0 if asked.method_type == "masked_lm" or not validated else SAMPLES
    decide("samples", training.samples, answers, "rows of the validation file that are answered")
    decide("gpus", training.gpus, 1, "more GPUs make a training faster, if a worker offers them")
    return settings


def refuse_exports(asked: CreateJob, base: BaseModel, spec: TrainingSpec) -> None:
    """Raises `InvalidRequest` for one that could not be made of the result."""
    for export in asked.exports or ():
        exports.refuse(
            export.options,
            architecture=base.architecture,
            lora=spec.lora,
            not_for_ollama=exports.OWN_TEMPLATE if spec.chat_template else base.not_for_ollama,
        )


def template_for(asked: CreateJob, base: BaseModel, source: Source | None, file: File) -> Chosen:
    formats = (file.report or {}).get("formats", ())
    given = asked.training.chat_template
    return chosen(base, formats, given, source.chat_template if source else None)


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
        target_parameters=wanted.target_parameters or (),
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
    has["target_parameters"] = tuple(source.target_parameters)
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


def evaluation_of(asked: CreateJob) -> Evaluation | None:
    wanted = asked.evaluation
    if wanted is None:
        return None
    return Evaluation(grader=wanted.grader, rows=wanted.rows, max_tokens=wanted.max_tokens)


def data_file(file: File) -> DataFile:
    return DataFile(
        id=file.id, sha256=file.sha256, rows=forecast.rows_of(file), columns=file.columns
    )
