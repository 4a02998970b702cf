"""What a job would be."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tunery.fields import Bytes, Described, Kind, ModelName
from tunery.plan.memory import Plan

Rows = Annotated[int, Field(description="Rows of one epoch, estimated.", examples=[1200])]
Tokens = Annotated[
    int, Field(description="Tokens of one epoch, estimated from bytes.", examples=[184_320])
]
Steps = Annotated[int, Field(description="Optimizer steps over all epochs.", examples=[300])]
LearningRate = Annotated[float, Field(examples=[0.0002])]
MaxLength = Annotated[int, Field(examples=[1024])]
Reasons = Annotated[
    dict[str, str], Field(examples=[{"n_epochs": "3 epochs suit a data set of this size"}])
]
Range = Annotated[tuple[float, float] | None, Field(examples=[[380.0, 950.0]])]
Source = Annotated[
    Literal["history", "model"] | None,
    Field(
        description="What `seconds` come from: `history`, the project's own jobs on this base and "
        "device; or `model`, a model of the device; null: they are not known."
    ),
]


class DeviceEstimate(Described):
    """One kind of device among the workers."""

    device: Annotated[str, Field(examples=["NVIDIA H100 80GB HBM3"])] | None
    """Name of the GPU, or `cpu`; null: the worker has not reported it yet."""
    memory_bytes: Annotated[Bytes, Field(examples=[25_757_220_864])] | None
    """Memory of the device in bytes; null: the worker has not reported it yet."""
    gpus: Annotated[int, Field(examples=[1])] = 1
    """Number of such devices that a worker offers to one training; on a CPU, of processes."""
    fits: bool | None = None
    """Whether the job can be trained on it; null: that cannot be told."""
    plan: Plan | None = None
    """How the engine would fit the job to the device; null unless it fits."""
    reason: (
        Annotated[
            str,
            Field(
                examples=["The worker has not told its memory yet; it does when its engine is up."]
            ),
        ]
        | None
    ) = None
    """Why it does not fit, with what is needed and what would fit; or why that cannot be told; null
    if it fits.
    """
    seconds: Range = None
    """Shortest and longest time expected on it, in seconds; null: not known."""
    seconds_from: Source = None


class JobEstimate(Described):
    """What a job was expected to be when its settings were frozen."""

    rows: Rows
    tokens: Tokens
    steps: Steps
    seconds: Range = None
    """Shortest and longest time expected on any device, in seconds; null: not known."""
    seconds_from: Source = None


class EstimateObject(Described):
    """What a job would be."""

    object: Kind[Literal["fine_tuning.estimate"]] = "fine_tuning.estimate"
    model: ModelName
    rows: Rows
    tokens: Tokens
    longest_row_tokens: Annotated[int, Field(examples=[640])]
    """Tokens of the longest row, estimated from bytes."""
    tokens_are_estimated: Literal[True] = True
    """Always true: tokens are estimated from the bytes of the rows' texts."""
    steps: Steps
    hyperparameters: Annotated[
        dict[str, int | float],
        Field(examples=[{"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}]),
    ]
    """The hyperparameters, each `auto` resolved."""
    learning_rate: LearningRate
    """The optimizer's peak learning rate."""
    max_length: MaxLength
    """Maximum number of tokens in a row."""
    reasons: Reasons
    """For each `auto`, a sentence that says why it became what it is."""
    training: Annotated[
        dict[str, Any], Field(examples=[{"finetuning_type": "lora", "n_epochs": 3}])
    ]
    """All settings of `training` as they are resolved, by the names of `TrainingSpec`."""
    lora: Annotated[dict[str, Any] | None, Field(examples=[{"r": 16, "alpha": 32, "dropout": 0.0}])]
    """Settings of the adapter as they are resolved; null for full fine-tuning."""
    warnings: Annotated[list[str], Field(examples=[["The training file has only 12 rows."]])]
    """Sentences about data and settings that may be a mistake."""
    devices: list[DeviceEstimate]
    """Each kind of device among the workers, those with the least memory first."""
