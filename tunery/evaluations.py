"""What both models answered to the held-out rows, on its way from a worker to the API."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import to_json

from tunery.measured import Lines
from tunery.wire import Message, Text, readable

MOST_ROWS = 512
# Of all rows that are sent at once, and of one row's item; as JSON.
BATCH_BYTES = 256 << 10
MOST_ITEM_BYTES = 64 << 10

Points = Annotated[float | None, Field(allow_inf_nan=False, examples=[1.0])]
A_CALL = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}


def bounded(item: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(item)) > MOST_ITEM_BYTES:
        raise ValueError(f"is longer than {MOST_ITEM_BYTES:,} bytes as JSON")
    return item


def few(calls: list[Any]) -> list[Any]:
    if len(to_json(calls)) > MOST_ITEM_BYTES:
        raise ValueError(f"is longer than {MOST_ITEM_BYTES:,} bytes as JSON")
    return calls


Calls = Annotated[
    list[Annotated[dict[str, Any], Field(max_length=16)]],
    Field(max_length=256, examples=[[A_CALL]]),
    AfterValidator(few),
]


class AnsweredRow(Message):
    """A held-out row with the answers of both models. A long text is cut."""

    line: Lines
    prompt: Annotated[Text, Field(examples=["How many stomachs does a cow have?"])]
    """The last message before the answer, or the prompt."""
    item: Annotated[
        dict[str, Any],
        Field(max_length=256, examples=[{"reference": "One, with four compartments."}]),
        AfterValidator(bounded),
    ]
    """The fields of the row that the grader reads."""
    base: Annotated[Text, Field(examples=["A cow has 4 stomachs."])]
    """The answer of the model that the training started from."""
    tuned: Annotated[Text, Field(examples=["One, with four compartments."])]
    """The answer of the tuned model."""
    base_calls: Calls = Field(default_factory=list)
    """Functions that it calls."""
    tuned_calls: Calls = Field(default_factory=list)
    """Functions that the tuned model calls."""
    base_score: Points = None
    """The grader's score of the first; null: a judge is still to be asked."""
    tuned_score: Points = None
    """The grader's score of the second; null: a judge is still to be asked."""
    trouble: Annotated[Text, Field(examples=["item has nothing at 'reference'."])] | None = None
    """Why an answer could not be graded, which counts as 0; null: both could."""


class AnsweredRows(Message):
    """Some of an evaluation's rows. A row that is sent again takes the place of the first."""

    rows: Annotated[list[AnsweredRow], Field(min_length=1, max_length=MOST_ROWS)]
    """The rows."""


def shortened(item: dict[str, Any]) -> dict[str, Any]:
    """The item with its longest fields cut, as texts, so that it may be sent."""
    short = dict(item)
    most = MOST_ITEM_BYTES // 8 // max(1, len(item))
    if len(to_json(item)) > MOST_ITEM_BYTES:
        for name, value in item.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if len(text) > most:
                short[name] = readable(text)[:most]
    return short


def batches(rows: Sequence[AnsweredRow]) -> Iterator[AnsweredRows]:
    """All of them, a request's worth at a time."""
    batch: list[AnsweredRow] = []
    size = 0
    for row in rows:
        takes = len(row.model_dump_json())
        if batch and size + takes > BATCH_BYTES:
            yield AnsweredRows(rows=batch)
            batch, size = [], 0
        batch.append(row)
        size += takes
    if batch:
        yield AnsweredRows(rows=batch)
