"""What a job is asked for."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.http.shapes import Metadata, Request, Word
from api.jobs.exports.schemas import AskedExport, ExportSettings
from api.jobs.training import LoraSettings, TrainingSettings
from tunery.fields import MODEL_NAME
from tunery.grading.graders import A_PART, Grader

A_FILE = "file-E3pyIgKpaUnArl63XykWZeiN"


def auto_or(kind: type[int | float], low: float, high: float, words: str) -> BeforeValidator:
    """`"auto"` or a number between, both ends included; anything else refused in one sentence."""

    def check(value: Any) -> Any:  # noqa: ANN401
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == "auto" or (number and low <= value <= high and kind(value) == value):
            return value
        raise ValueError(f'must be {words}, or "auto"')

    return BeforeValidator(check)


class Hyperparameters(Request):
    """OpenAI's settings of a training. "auto" is decided from the data and the base model."""

    n_epochs: Annotated[
        int | Literal["auto"],
        auto_or(int, 1, 50, "a whole number from 1 to 50"),
        Field(examples=[3]),
    ] = "auto"
    """Number of passes over the training file, from 1 to 50."""
    batch_size: Annotated[
        int | Literal["auto"],
        auto_or(int, 1, 256, "a whole number from 1 to 256"),
        Field(examples=[8]),
    ] = "auto"
    """Rows per optimizer step, from 1 to 256."""
    learning_rate_multiplier: Annotated[
        float | Literal["auto"],
        auto_or(float, 1e-6, 1e6, "a number above 0 (from 0.000001 to 1000000)"),
        Field(examples=[1.0]),
    ] = "auto"
    """The base model's usual learning rate is multiplied by this, from 0.000001 to 1000000."""


class PreferenceHyperparameters(Hyperparameters):
    """Those of `dpo`."""

    beta: Annotated[
        float | Literal["auto"],
        auto_or(float, 1e-6, 2, "a number above 0, up to 2"),
        Field(examples=[0.1]),
    ] = "auto"
    """How strongly the model is kept close to the one that the training starts from: from 0.000001
    to 2, by default 0.1.
    """


class MaskedLmHyperparameters(Hyperparameters):
    """Those of `masked_lm`."""

    mask_probability: Annotated[
        float | Literal["auto"],
        auto_or(float, 0.01, 0.9, "a number from 0.01 to 0.9"),
        Field(examples=[0.15]),
    ] = "auto"
    """Probability that a token is chosen to be guessed: from 0.01 to 0.9, by default 0.15."""


class Supervised(Request):
    """Settings of the method `supervised`."""

    hyperparameters: Hyperparameters = Hyperparameters()
    """The method's hyperparameters."""


class Preference(Request):
    """Settings of the method `dpo`."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()
    """The method's hyperparameters."""


class MaskedLm(Request):
    """Settings of the method `masked_lm`."""

    hyperparameters: MaskedLmHyperparameters = MaskedLmHyperparameters()
    """The method's hyperparameters."""


class Method(Request):
    """OpenAI's, and `masked_lm`, which trains encoders. Only the settings of its type are given."""

    type: Literal["supervised", "dpo", "masked_lm", "reinforcement"]
    """What is learned: the next token, preferences (direct preference optimization), or masked
    tokens. `reinforcement` is refused.
    """
    supervised: Supervised | None = None
    """Settings of `supervised`; null: the defaults."""
    dpo: Preference | None = None
    """Settings of `dpo`; null: the defaults."""
    masked_lm: MaskedLm | None = None
    """Settings of `masked_lm`; null: the defaults."""
    reinforcement: Annotated[dict[str, Any], Field(max_length=64, examples=[{}])] | None = None
    """OpenAI's. It is refused: reinforcement learning is not offered."""

    @model_validator(mode="after")
    def offered(self) -> "Method":
        if self.type == "reinforcement":
            raise ValueError(
                "reinforcement learns from the marks that a grader gives the model's own answers, "
                'and is not offered; "supervised", "dpo" and "masked_lm" are'
            )
        others = {"supervised", "dpo", "masked_lm", "reinforcement"} - {self.type}
        if any(getattr(self, other) is not None for other in others):
            raise ValueError(f"its type is {self.type}; send that one's settings alone")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        match self.type:
            case "dpo":
                return (self.dpo or Preference()).hyperparameters
            case "masked_lm":
                return (self.masked_lm or MaskedLm()).hyperparameters
            case _:
                return (self.supervised or Supervised()).hyperparameters


def without(signs: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if found := set(text) & set(signs):
            raise ValueError(f"holds {found.pop()!r}; it may have none of {' '.join(signs)}")
        return text

    return check


# W&B's own rule.
WandbName = Annotated[Word, Field(min_length=1, max_length=128), AfterValidator(without(r"/\#?%:"))]


class WandbSettings(Request):
    """Where the job is shown in Weights & Biases."""

    project: Annotated[WandbName, Field(examples=["cows"])]
    """Project in Weights & Biases."""
    name: Annotated[Word, Field(max_length=128, examples=["cows, 3 epochs"])] | None = None
    """Name of the run; null: the job's id."""
    entity: Annotated[WandbName, Field(examples=["dairy"])] | None = None
    """User or team that the project belongs to; null: the key's own default."""
    tags: Annotated[
        list[Annotated[Word, Field(min_length=1, max_length=64, examples=["baseline"])]],
        Field(max_length=64),
    ] = Field(default_factory=list)
    """Tags of the run."""


class Integration(Request):
    """A tracker that receives the job's metrics."""

    type: Literal["wandb"]
    """The tracker: Weights & Biases."""
    wandb: WandbSettings
    """Where the job is shown there."""


def at_most_one(integrations: list[Integration]) -> list[Integration]:
    if len(integrations) > 1:
        raise ValueError("a job is told to one project of Weights & Biases; send one of them")
    return integrations


def each_once(exports: list[ExportSettings]) -> list[ExportSettings]:
    """The same asked for twice is one."""
    return [
        export
        for number, export in enumerate(exports)
        if export.options not in [earlier.options for earlier in exports[:number]]
    ]


class EvaluationSettings(Request):
    """What the models before and after the training are asked, and how it is graded. They answer
    the first validation rows. Of a row the grader reads its own fields as `item`, and besides
    `messages` or `prompt`, what is before the answer, and `reference`, the answer.
    """

    grader: Annotated[Grader, Field(description="The grader.", examples=[A_PART])]
    rows: Annotated[int, Field(ge=1, le=512, strict=True, examples=[64])] = 64
    """Number of validation rows that both models answer, from 1 to 512; fewer if there are no more.
    """
    max_tokens: Annotated[int, Field(ge=1, le=2048, strict=True, examples=[256])] = 256
    """The most tokens of an answer, from 1 to 2048."""


class CreateJob(Request):
    """A fine-tuning job to create or to estimate."""

    model: Annotated[Word, MODEL_NAME]
    training_file: Annotated[Word, Field(min_length=1, examples=[A_FILE])]
    """Id of the file to train on."""
    validation_file: Annotated[Word, Field(min_length=1, examples=[A_FILE])] | None = None
    """Id of the file to evaluate the model on at the end of each epoch; null: none."""
    hyperparameters: Hyperparameters | None = None
    """The older place for hyperparameters of `supervised`, instead of `method`; null: the defaults.
    """
    method: Method | None = None
    """What is learned, with its settings; null: `supervised`."""
    # Whatever it holds, the model's name has only what is safe in one (`jobs.tuned_model_name`).
    suffix: Annotated[Word, Field(min_length=1, max_length=64, examples=["cows"])] | None = None
    """Text that becomes a part of the tuned model's name; null: none."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True, examples=[42])] | None = None
    """Seed of all randomness of the training; null: a random one."""
    metadata: Metadata | None = None
    """Up to 16 key-value pairs that jobs can be filtered by, keys of up to 64 characters and values
    of up to 512; null: none.
    """
    integrations: (
        Annotated[list[Integration], Field(max_length=64), AfterValidator(at_most_one)] | None
    ) = None
    """Tracker that receives the job's metrics, at most one; null: none."""
    lora: LoraSettings = LoraSettings()
    """Settings of the adapter."""
    training: TrainingSettings = TrainingSettings()
    """All other settings of the training."""
    exports: Annotated[list[AskedExport], Field(max_length=8), AfterValidator(each_once)] | None = (
        None
    )
    """Exports to make when the job has succeeded; null: none."""

    evaluation: EvaluationSettings | None = None
    """How the tuned model is compared with its base at the end; null: it is not."""

    @model_validator(mode="after")
    def settings_in_one_place(self) -> "CreateJob":
        if self.method and self.hyperparameters and self.hyperparameters.model_fields_set:
            raise ValueError(
                "give `hyperparameters` inside `method`, or at the top level, not in both"
            )
        return self

    @property
    def settings(self) -> Hyperparameters:
        if self.method:
            return self.method.hyperparameters
        return self.hyperparameters or Hyperparameters()

    @property
    def method_type(self) -> Literal["supervised", "dpo", "masked_lm"]:
        if self.method is None:
            return "supervised"
        return self.method.type if self.method.type != "reinforcement" else "supervised"
