"""The frozen contract between the API and the trainer: everything that decides an adapter."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tunery.fields import (
    COLUMNS,
    BaseModelId,
    Described,
    FileId,
    Revision,
    Sha256,
    TunedModel,
)
from tunery.grading.graders import A_PART, Grader

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


class Frozen(Described):
    """An immutable value; an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def since(default: Any) -> Any:  # noqa: ANN401 (any field's)
    """A setting that came later, with what was done before there was a choice. As that it is not
    written: specs frozen before, and what is hashed over them, stay what they are.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class Lora(Frozen):
    """Low-rank adapters (Hu et al. 2021): W + (alpha / r) * B @ A. Initial A is Kaiming-uniform, B
    is zero.
    """

    r: Annotated[int, Field(ge=1, le=256, strict=True, examples=[16])] = 16
    """Rank of the adapter."""
    alpha: Annotated[int, Field(ge=1, le=1024, strict=True, examples=[32])] = 32
    """The adapter is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1, examples=[0.05])] = 0.0
    """Fraction of the adapter's inputs that training drops at random."""
    target_modules: Annotated[
        str | tuple[str, ...], Field(examples=["all-linear", ["q_proj", "v_proj"]])
    ] = since("all-linear")
    """Layers with an adapter, as PEFT has them: a list of the ends of their names, one regular
    expression for whole names, or "all-linear", which is every linear layer but the head.
    """
    target_parameters: Annotated[tuple[str, ...], Field(examples=[["experts.down_proj"]])] = since(
        ()
    )
    """Parameters of experts with an adapter beside, as PEFT has them: a list of the ends of their
    names.
    """
    rslora: bool = since(default=False)
    """Whether the scale is alpha / sqrt(r) instead (Kalajdzievski 2023)."""


class DataFile(Frozen):
    """One checked data set."""

    id: FileId
    sha256: Sha256
    rows: Annotated[int, Field(ge=1, examples=[1200])]
    """Rows of the file: lines that are not blank."""
    columns: Annotated[dict[str, str] | None, COLUMNS] = since(None)
    """The file's own names for the fields of a row, by ours; null: they have our names."""


class StartingAdapter(Frozen):
    """The LoRA weights that a training starts from."""

    model: TunedModel
    sha256: Annotated[
        Sha256,
        Field(description="SHA-256 of its `adapter_model.safetensors`, 64 lowercase hex digits."),
    ]


class Evaluation(Frozen):
    """What the models before and after the training are asked, and how their answers are graded."""

    grader: Annotated[Grader, Field(description="The grader.", examples=[A_PART])]
    rows: Annotated[int, Field(ge=1, le=512, examples=[64])] = 64
    """Number of validation rows that both models answer; fewer if there are no more."""
    max_tokens: Annotated[int, Field(ge=1, le=2048, examples=[256])] = 256
    """The most tokens of an answer."""


class Supervised(Frozen):
    """The next token of answers, completions and texts."""

    type: Literal["supervised"] = "supervised"
    """The training objective."""

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Those that no other objective has."""
        return {}


class Preference(Frozen):
    """Direct preference optimization (Rafailov et al. 2023) against the model that the training
    starts from.
    """

    type: Literal["dpo"] = "dpo"
    """The training objective."""
    beta: Annotated[float, Field(gt=0, le=2, examples=[0.1])] = 0.1
    """How strongly the model is kept close to the one that the training starts from."""

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {"beta": self.beta}


class MaskedLm(Frozen):
    """Masked language modelling of an encoder (Devlin et al. 2019, section 3.1): each token that is
    not special is chosen with the same probability; of those 80 % are masked, 10 % are another
    token, 10 % stay.
    """

    type: Literal["masked_lm"] = "masked_lm"
    """The training objective."""
    mask_probability: Annotated[float, Field(gt=0, lt=1, examples=[0.15])] = 0.15
    """Probability that a token is chosen."""

    @property
    def hyperparameters(self) -> dict[str, float]:
        return {"mask_probability": self.mask_probability}


Objective = Annotated[Supervised | Preference | MaskedLm, Field(discriminator="type")]


Template = Annotated[str, Field(examples=["{{ messages[0].content }}"])]


class TrainingSpec(Frozen):
    """One training, trained weights in fp32. Every `auto` but that of `quantization` is resolved
    before a spec exists. The same spec, data and machine give the same weights.
    """

    version: Literal[1] = 1
    """Version of this format."""
    base_model: BaseModelId
    base_revision: Revision
    training_file: DataFile
    """The data set that is trained on."""
    validation_file: DataFile | None = None
    """The data set that the model is evaluated on; null: it is not evaluated."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, examples=[42])]
    """Seed of all randomness of the training."""
    n_epochs: Annotated[int, Field(ge=1, le=50, examples=[3])]
    """Number of passes over the training file."""
    batch_size: Annotated[int, Field(ge=1, le=256, examples=[8])]
    """Rows per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0, examples=[0.0002])]
    """The optimizer's peak learning rate."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1, examples=[0.05])] = 0.05
    """Fraction of all steps in which the learning rate rises to its peak."""
    weight_decay: Annotated[float, Field(ge=0, examples=[0.01])] = 0.0
    """The optimizer's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0, examples=[1.0])] = 1.0
    """Norm that a step's gradient is clipped to."""
    max_length: Annotated[int, Field(ge=8, examples=[1024])]
    """Maximum number of tokens in a row. A longer row is cut or split, see `overflow`."""
    lora: Lora | None = Lora()
    """The adapter that is trained; null: full fine-tuning, which trains the model's own weights."""
    quantization: Quantization = "nf4"
    """What the base is trained in: "nf4" or "fp4", as in QLoRA (Dettmers et al. 2023); "int8", by
    row as in LLM.int8() (Dettmers et al. 2022); or "none", the device's compute dtype. With "auto"
    the job's first worker decides by its device, and records it in its plan, an event and the
    adapter's manifest.
    """
    adapter: StartingAdapter | None = since(None)
    """The adapter that the training starts from; null: a fresh one."""
    objective: Objective = since(Supervised())
    """What is learned, with its own settings."""
    double_quant: bool = since(default=True)
    """Whether the scales of a base in 4 bits are quantized too."""
    optimizer: Optimizer = since("adamw_torch")
    """The optimizer, by its name in transformers."""
    lr_scheduler: Scheduler = since("linear")
    """How the learning rate changes after the warm-up, by its name in transformers."""
    train_on_inputs: bool = since(default=False)
    """Whether all of a row is trained on: prompts, what the template writes, and messages of
    weight 0, too.
    """
    train_on_reasoning: bool = since(default=True)
    """Whether what a model thinks before an answer is trained on, or only what it then says."""
    overflow: Overflow = since("cut")
    """What happens to a row longer than `max_length`: "cut" drops its end; "split" makes several
    rows of it, if it is a text.
    """
    micro_batch_size: Annotated[int, Field(ge=1, examples=[4])] | None = since(None)
    """Maximum number of rows computed at once; null: as many as fit the plan's tokens."""
    early_stopping_patience: Annotated[int, Field(ge=1, examples=[2])] | None = since(None)
    """Number of evaluations in a row without a new best after which the training ends; null: it
    runs for all epochs.
    """
    load_best_model_at_end: bool = since(default=False)
    """Whether the weights of the best evaluation are published instead of the last step's."""
    samples: Annotated[int, Field(ge=0, examples=[3])] = since(0)
    """Number of validation rows that the model answers at the end of each epoch."""
    warmup_steps: Annotated[int, Field(ge=0, examples=[10])] | None = since(None)
    """Steps in which the learning rate rises, instead of `warmup_ratio`."""
    max_steps: Annotated[int, Field(ge=1, examples=[100])] | None = since(None)
    """Steps after which the training ends, if its epochs have not ended before."""
    validation_split: Annotated[float, Field(gt=0, lt=1, examples=[0.1])] | None = since(None)
    """Fraction of the training file's rows, chosen by the seed, that is validated on instead."""
    chat_template: Annotated[str, Field(examples=["{{ messages[0].content }}"])] | None = since(
        None
    )
    """The chat template in Jinja, instead of the base's own."""
    max_lost_share: Annotated[float, Field(ge=0, le=1, examples=[0.05])] = since(0.05)
    """Largest fraction of a file's rows that may be left out, or trained without something that
    they say. If there are more, the training fails.
    """
    adam_beta1: Annotated[float, Field(ge=0, lt=1, examples=[0.9])] | None = since(None)
    """AdamW's decay of the gradients' mean; null: the optimizer's own, 0.9 for AdamW."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1, examples=[0.95])] | None = since(None)
    """AdamW's decay of the squared gradients' mean; null: the optimizer's own, 0.999 for AdamW."""
    adam_epsilon: Annotated[float, Field(gt=0, examples=[1e-5])] | None = since(None)
    """What AdamW adds to the root that it divides by; null: the optimizer's own, 1e-8 for AdamW."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1, examples=[0.1])] | None = since(None)
    """Fraction of the peak learning rate where `cosine_with_min_lr` ends; null: 0.1."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0, examples=[16.0])] | None = since(None)
    """The learning rate of an adapter's B is so many times that of its A (LoRA+, Hayou et al.
    2024); null: it is the same.
    """
    gpus: Annotated[int, Field(ge=1, examples=[2])] = since(1)
    """Number of GPUs that train it together, all of one worker."""

    evaluation: Evaluation | None = since(None)
    """What both models are asked at the end, and how it is graded; null: they are not compared."""

    @property
    def r(self) -> int | None:
        """The adapter's rank; None for full fine-tuning."""
        return self.lora.r if self.lora else None

    @property
    def drops(self) -> bool:
        """Whether activations are dropped in training."""
        return self.lora is not None and self.lora.dropout > 0
