"""The frozen contract between the API and the trainer: everything that decides an adapter."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Quantization = Literal["auto", "nf4", "fp4", "int8", "none"]
Overflow = Literal["cut", "split"]

# By the names that transformers gives them.
Optimizer = Literal[
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "ademamix",
    "ademamix_8bit",
    "adafactor",
    "sgd",
]
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
]


class Frozen(BaseModel):
    """An immutable value; an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def since(default: Any) -> Any:  # noqa: ANN401 (any field's)
    """A setting that came later, with what was done before there was a choice. As that it is not
    written: specs frozen before, and what is hashed over them, stay what they are.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class Lora(Frozen):
    """Low-rank adapters (Hu et al. 2021): W + (alpha / r) * B @ A. Initial A is Kaiming-uniform, B
    is zero. With `rslora` it is alpha / sqrt(r) (Kalajdzievski 2023).

    `target_modules` as PEFT has them: the ends of layers' names, one regular expression for whole
    names, or "all-linear": every linear layer but the head.
    """

    r: Annotated[int, Field(ge=1, le=256, strict=True)] = 16
    alpha: Annotated[int, Field(ge=1, le=1024, strict=True)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = since("all-linear")
    rslora: bool = since(default=False)


class DataFile(Frozen):
    """One checked data set. `rows` counts its rows (lines that are not blank)."""

    id: str
    sha256: str
    rows: Annotated[int, Field(ge=1)]


class StartingAdapter(Frozen):
    """The LoRA weights that a training starts from: the tuned model's name, and the SHA-256 of its
    `adapter_model.safetensors`.
    """

    model: str
    sha256: str


class Supervised(Frozen):
    """The next token of answers, completions and texts."""

    type: Literal["supervised"] = "supervised"

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Those that no other objective has."""
        return {}


class Preference(Frozen):
    """Direct preference optimization (Rafailov et al. 2023) against the model that the training
    starts from.
    """

    type: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0, le=2)] = 0.1

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {"beta": self.beta}


class MaskedLm(Frozen):
    """Masked language modelling of an encoder (Devlin et al. 2019, section 3.1): each token that is
    not special is chosen with `mask_probability`; of those 80 % are masked, 10 % are another token,
    10 % stay.
    """

    type: Literal["masked_lm"] = "masked_lm"
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {"mask_probability": self.mask_probability}


Objective = Annotated[Supervised | Preference | MaskedLm, Field(discriminator="type")]


class TrainingSpec(Frozen):
    """One training, trained weights in fp32. Every `auto` but that of `quantization` is resolved
    before a spec exists.

    `quantization` is what the base is trained in: "nf4" or "fp4", as in QLoRA (Dettmers et al.
    2023), their scales quantized too with `double_quant`; "int8", by row as in LLM.int8() (Dettmers
    et al. 2022); or "none", the device's compute dtype. "auto" depends on the device: the job's
    first worker plans it, and records it in its plan, an event and the adapter's manifest.

    `lora` is None for full fine-tuning. `adapter` is None for a fresh one.

    `micro_batch_size` is the most rows that are computed at once; without it, what the plan's
    tokens hold. A row longer than `max_length` is cut at its end, or split into several if it is a
    text and `overflow` says so. With `train_on_inputs` all of a row is trained on: prompts, what
    the template writes, and messages of weight 0.

    After `early_stopping_patience` evaluations in a row that are no better than the best, the
    training ends. `load_best_model_at_end`: the result is that of the best evaluation. At each
    epoch's end the model answers so many `samples` of the validation rows. If more than
    `max_lost_share` of a file's rows would be left out, or trained without something that they say,
    the training fails.

    The same spec, data and machine give the same weights.
    """

    version: Literal[1] = 1
    base_model: str
    base_revision: str
    training_file: DataFile
    validation_file: DataFile | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    n_epochs: Annotated[int, Field(ge=1, le=50)]
    batch_size: Annotated[int, Field(ge=1, le=256, description="rows per optimizer step")]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    max_length: Annotated[int, Field(ge=8, description="tokens")]
    lora: Lora | None = Lora()
    quantization: Quantization = "nf4"
    adapter: StartingAdapter | None = since(None)
    objective: Objective = since(Supervised())
    double_quant: bool = since(default=True)
    optimizer: Optimizer = since("adamw_torch")
    lr_scheduler: Scheduler = since("linear")
    train_on_inputs: bool = since(default=False)
    overflow: Overflow = since("cut")
    micro_batch_size: Annotated[int, Field(ge=1)] | None = since(None)
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = since(None)
    load_best_model_at_end: bool = since(default=False)
    samples: Annotated[int, Field(ge=0)] = since(0)
    max_lost_share: Annotated[float, Field(ge=0, le=1)] = since(0.05)

    @property
    def r(self) -> int | None:
        """The adapter's rank; None for full fine-tuning."""
        return self.lora.r if self.lora else None

    @property
    def drops(self) -> bool:
        """Whether activations are dropped in training."""
        return self.lora is not None and self.lora.dropout > 0

    @property
    def is_newer(self) -> bool:
        """Whether it says what no worker before protocol 4 knew."""
        written = self.model_dump(mode="json")
        return (
            bool(SINCE_PROTOCOL_4 & written.keys())
            or (written["lora"] or {}).keys() != {"r", "alpha", "dropout"}
            or self.quantization in {"fp4", "int8"}
        )


SINCE_PROTOCOL_4 = {
    "objective",
    "double_quant",
    "optimizer",
    "lr_scheduler",
    "train_on_inputs",
    "overflow",
    "micro_batch_size",
    "early_stopping_patience",
    "load_best_model_at_end",
    "samples",
}
