"""What a training measures: its curves, its pace, and what the model answers."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tunery.fields import Seconds
from tunery.wire import Count, Message, Text


def measured(value: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    """JSON has no word for what is not finite."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


Measure = Annotated[Annotated[float, Field(strict=True)] | None, BeforeValidator(measured)]
Loss = Annotated[Measure, Field(examples=[0.8214])]
Share = Annotated[Measure, Field(examples=[0.7431])]
Margin = Annotated[Measure, Field(examples=[0.412])]
Lines = Annotated[
    Count, Field(description="Line number of the row in the file, starting at 1.", examples=[17])
]


class Metrics(Message):
    """What one optimizer step measured. A figure that was not measured, or is not finite, is null.

    Losses are means over trained tokens, in nats; for preferences, means over pairs of answers.
    The same training has the same metrics, to the last bit.
    """

    step: Annotated[Count, Field(examples=[120])]
    """Optimizer steps taken so far, over all epochs."""
    train_loss: Loss = None
    """Loss on the rows of this step, in nats."""
    train_mean_token_accuracy: Share = None
    """Fraction of this step's trained tokens that the model found likeliest, 0 to 1."""
    valid_loss: Loss = None
    """Loss on the whole validation file, in nats; null at a step without an evaluation."""
    valid_mean_token_accuracy: Share = None
    """Fraction of the validation file's trained tokens that the model found likeliest, 0 to 1."""
    train_reward_accuracy: Share = None
    """Of preferences: fraction of this step's pairs with a reward margin above 0, 0 to 1."""
    train_reward_margin: Margin = None
    """Of preferences: reward of the preferred answer less that of the other, mean of this step."""
    valid_reward_accuracy: Share = None
    """Of preferences: fraction of the validation pairs with a reward margin above 0, 0 to 1."""
    valid_reward_margin: Margin = None
    """Of preferences: the same margin, mean of the validation file."""
    learning_rate: Annotated[Measure, Field(examples=[0.0002])] = None
    """Learning rate that the step was taken with."""
    grad_norm: Annotated[Measure, Field(examples=[0.97])] = None
    """Norm of the step's gradient before clipping."""
    epoch: Annotated[Measure, Field(examples=[1.5])] = None
    """Epochs of the training data seen so far: 1.5 is in the middle of the second."""


class Pace(Message):
    """How fast the steps went that were read from the device together, and with how much memory."""

    elapsed_seconds: Annotated[Seconds, Field(ge=0, allow_inf_nan=False)]
    """Seconds since the first step, over all attempts, with evaluations and checkpoints but without
    waiting for a worker.
    """
    tokens_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False, examples=[5210.3])] | None
    """All tokens of the rows, trained or not, without padding; null for a step that an earlier
    attempt took.
    """
    memory_bytes: Annotated[Count, Field(examples=[3_221_225_472])]
    """Peak bytes that PyTorch had allocated on the GPU during these steps; without a GPU, the
    resident memory of the engine after them.
    """


class Progress(Message):
    """Where an attempt stands."""

    step: Annotated[Count, Field(examples=[120])]
    """Optimizer steps taken so far."""
    total_steps: Annotated[Count, Field(ge=1, examples=[300])]
    """Optimizer steps of the whole training."""
    trained_tokens: Annotated[Count, Field(examples=[184_320])]
    """Tokens trained on so far, over all epochs."""
    seconds_left: Annotated[Seconds, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds until the training ends, by the pace so far; null before the attempt's first step."""


class Fetching(Message):
    """How far the worker is with fetching the base model."""

    bytes: Annotated[Count, Field(examples=[3_100_000_000])]
    """Bytes that are there."""
    total_bytes: Annotated[Count, Field(examples=[16_060_000_000])]
    """Bytes of all files of the base model."""


class Sample(Message):
    """A held-out row, answered by the model: each answer is the likeliest next token, again and
    again.
    """

    line: Lines
    prompt: Annotated[Text, Field(examples=["How many stomachs does a cow have?"])]
    """End of the row's prompt."""
    expected: Annotated[Text, Field(examples=["One, with four compartments."])]
    """Beginning of the answer in the row."""
    base: Annotated[Text, Field(examples=["A cow has 4 stomachs."])]
    """The answer of the model that the training started from."""
    tuned: Annotated[Text, Field(examples=["One, with four compartments."])]
    """The answer of the model at this checkpoint."""


class RowLoss(Message):
    """The loss of one validation row, before the training and now."""

    line: Lines
    text: Annotated[Text, Field(examples=["How many stomachs does a cow have? One, with"])]
    """Beginning of the row's text."""
    base_loss: Annotated[float, Field(allow_inf_nan=False, examples=[2.3104])]
    """Loss of the row before the training, in nats."""
    loss: Annotated[float, Field(allow_inf_nan=False, examples=[0.4127])]
    """Loss of the row at this checkpoint, in nats."""


class Samples(Message):
    """How the model does on the validation file."""

    answers: Annotated[list[Sample], Field(max_length=64)]
    """Rows of the validation file that the model answered."""
    best: Annotated[list[RowLoss], Field(max_length=64)]
    """The measured rows with the least loss, lowest first."""
    worst: Annotated[list[RowLoss], Field(max_length=64)]
    """The measured rows with the most loss, highest first."""
