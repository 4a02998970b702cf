"""What a job would be."""

from typing import Literal

from pydantic import BaseModel

from tunery.plan.memory import Plan


class DeviceEstimate(BaseModel):
    """One kind of device among the workers. `fits` is None where that cannot be told, with the
    `reason`; False comes with what is needed and what would fit.

    `plan` is what the engine would go by. `seconds` are from, to: of `history`, the project's own
    jobs on this base and device, or of a `model` of the device; None if its speed is not known.
    """

    device: str | None
    memory_bytes: int | None
    fits: bool | None = None
    plan: Plan | None = None
    reason: str | None = None
    seconds: tuple[float, float] | None = None
    seconds_from: Literal["history", "model"] | None = None


class JobEstimate(BaseModel):
    """What a job was expected to be when its settings were frozen. `tokens` are of one epoch;
    `seconds` are from, to, on whichever of the devices; None if that is not known.
    """

    rows: int
    tokens: int
    steps: int
    seconds: tuple[float, float] | None = None
    seconds_from: Literal["history", "model"] | None = None


class EstimateObject(BaseModel):
    """What a job would be. `tokens` are of one epoch; they and `longest_row_tokens` are estimated
    from the bytes of the rows' texts. `steps` are optimizer steps over all epochs.
    """

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    model: str
    rows: int
    tokens: int
    longest_row_tokens: int
    tokens_are_estimated: Literal[True] = True
    steps: int
    hyperparameters: dict[str, int | float]
    learning_rate: float
    max_length: int
    reasons: dict[str, str]
    devices: list[DeviceEstimate]
