"""What a training measures: its curves, its pace, and what the model answers."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tunery.wire import Count, Message, Text


def measured(value: Any) -> Any:  # noqa: ANN401 (whatever was sent)
    """JSON has no word for what is not finite."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


Measure = Annotated[float | None, BeforeValidator(measured)]


class Metrics(Message):
    """Losses are means over trained tokens, in nats; accuracies are fractions of them.

    Of preferences losses are means over pairs of answers: `reward_margin` is the preferred answer's
    reward less the other's on average, `reward_accuracy` the fraction of pairs where it is above 0.

    `learning_rate` is the one that the step was taken with, `grad_norm` the norm of its gradient
    before that is clipped, and `epoch` the share of the training data seen up to it: 1.5 is in the
    middle of the second epoch.

    The same training has the same metrics, to the last bit.
    """

    step: Count
    train_loss: Measure = None
    train_mean_token_accuracy: Measure = None
    valid_loss: Measure = None
    valid_mean_token_accuracy: Measure = None
    train_reward_accuracy: Measure = None
    train_reward_margin: Measure = None
    valid_reward_accuracy: Measure = None
    valid_reward_margin: Measure = None
    learning_rate: Measure = None
    grad_norm: Measure = None
    epoch: Measure = None


class Pace(Message):
    """How fast the steps went that were read from the device together, and with how much memory.

    `elapsed_seconds` counts from the first step, over all attempts, with evaluations and
    checkpoints but without waiting for a worker. `tokens_per_second` counts all the tokens of the
    rows, trained or not, without padding; it is None of a step that an earlier attempt took.
    `memory_bytes` is the most that PyTorch had allocated on the GPU
    during these steps; without a GPU, the resident memory of the engine after them.
    """

    elapsed_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    tokens_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    memory_bytes: Count


class Progress(Message):
    """Where an attempt stands."""

    step: Count
    total_steps: Annotated[Count, Field(ge=1)]
    trained_tokens: Count
    seconds_left: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Sample(Message):
    """A held-out row's prompt, what the row answers, what the model that the training started from
    answers, and what it answers now: each the likeliest next token, again and again.
    """

    line: Count
    prompt: Text
    expected: Text
    base: Text
    tuned: Text


class RowLoss(Message):
    """The loss of one validation row, before the training and now; of its text the beginning."""

    line: Count
    text: Text
    base_loss: Annotated[float, Field(allow_inf_nan=False)]
    loss: Annotated[float, Field(allow_inf_nan=False)]


class Samples(Message):
    """How the model does on the validation file: some of its rows answered, and those with the
    least and the most loss.
    """

    answers: Annotated[list[Sample], Field(max_length=64)]
    best: Annotated[list[RowLoss], Field(max_length=64)]
    worst: Annotated[list[RowLoss], Field(max_length=64)]
