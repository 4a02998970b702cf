"""What a job is asked for."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.http.shapes import Request, Word
from api.jobs.exports.schemas import AskedExport, ExportSettings
from api.jobs.training import LoraSettings, TrainingSettings


def auto_or(kind: type[int | float], low: float, high: float, words: str) -> BeforeValidator:
    """`"auto"` or a number between, both ends included; anything else refused in one sentence."""

    def check(value: Any) -> Any:  # noqa: ANN401
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == "auto" or (number and low <= value <= high and kind(value) == value):
            return value
        raise ValueError(f'must be {words}, or "auto"')

    return BeforeValidator(check)


class Hyperparameters(Request):
    n_epochs: Annotated[
        int | Literal["auto"], auto_or(int, 1, 50, "a whole number from 1 to 50")
    ] = "auto"
    batch_size: Annotated[
        int | Literal["auto"], auto_or(int, 1, 256, "a whole number from 1 to 256")
    ] = "auto"
    learning_rate_multiplier: Annotated[
        float | Literal["auto"],
        auto_or(float, 1e-6, 1e6, "a number above 0 (from 0.000001 to 1000000)"),
    ] = "auto"


class PreferenceHyperparameters(Hyperparameters):
    beta: Annotated[
        float | Literal["auto"], auto_or(float, 1e-6, 2, "a number above 0, up to 2")
    ] = "auto"


class MaskedLmHyperparameters(Hyperparameters):
    mask_probability: Annotated[
        float | Literal["auto"], auto_or(float, 0.01, 0.9, "a number from 0.01 to 0.9")
    ] = "auto"


class Supervised(Request):
    hyperparameters: Hyperparameters = Hyperparameters()


class Preference(Request):
    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class MaskedLm(Request):
    hyperparameters: MaskedLmHyperparameters = MaskedLmHyperparameters()


class Method(Request):
    """OpenAI's, and `masked_lm`, which trains encoders."""

    type: Literal["supervised", "dpo", "masked_lm", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Preference | None = None
    masked_lm: MaskedLm | None = None
    reinforcement: Annotated[dict[str, Any], Field(max_length=64)] | None = None

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
    project: WandbName
    name: Annotated[Word, Field(max_length=128)] | None = None
    entity: WandbName | None = None
    tags: Annotated[
        list[Annotated[Word, Field(min_length=1, max_length=64)]], Field(max_length=64)
    ] = Field(default_factory=list)


class Integration(Request):
    type: Literal["wandb"]
    wandb: WandbSettings


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


class CreateJob(Request):
    model: Word
    training_file: Annotated[Word, Field(min_length=1)]
    validation_file: Annotated[Word, Field(min_length=1)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    # Whatever it holds, the model's name has only what is safe in one (`jobs.tuned_model_name`).
    suffix: Annotated[Word, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[Word, Field(min_length=1, max_length=64)],
                Annotated[Word, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    integrations: (
        Annotated[list[Integration], Field(max_length=64), AfterValidator(at_most_one)] | None
    ) = None
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    # Made when the job has succeeded.
    exports: Annotated[list[AskedExport], Field(max_length=8), AfterValidator(each_once)] | None = (
        None
    )

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
