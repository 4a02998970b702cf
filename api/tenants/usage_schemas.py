"""The report on usage, in the shape of OpenAI's usage API."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.http.shapes import seconds
from api.tenants.schemas import BudgetWarnings, KeyId, PersonId
from api.tenants.usage import DIMENSIONS, Span, Used
from tunery.cells import cell
from tunery.fields import BaseModelId, Described, Kind, ProjectId, Seconds, Tokens, UnixTime


class Money(Described):
    """A sum of money."""

    value: Annotated[float, Field(examples=[12.6])]
    """The amount, to a millionth."""
    currency: Annotated[str, Field(examples=["USD"])]
    """Its currency, as ISO 4217 calls it."""


class UsageResult(Described):
    """What one group took in one bucket."""

    object: Kind[Literal["usage.result"]] = "usage.result"
    project_id: ProjectId | None
    """Id of the project; null: the report is not by it."""
    project: Annotated[str, Field(examples=["dairy"])] | None
    """Name of that project."""
    api_key_id: KeyId | None
    """Id of the key that the jobs were created with; null: the report is not by it, a person in a
    session created them, or it is not known.
    """
    api_key: Annotated[str, Field(examples=["CI"])] | None
    """Name of that key, or its first characters."""
    user_id: PersonId | None
    """Id of the person who created the jobs; null: the report is not by it, or it was nobody in
    particular.
    """
    user: Annotated[str, Field(examples=["ada@example.com"])] | None
    """What that person is called."""
    model: BaseModelId | None
    """Id of the base model; null: the report is not by it, or these are answers."""
    pool: Annotated[str, Field(examples=["a100"])] | None
    """Pool of the workers; null: the report is not by it, or these are answers."""
    device_seconds: Seconds
    """Seconds for which jobs and exports held devices, whatever the outcome."""
    num_attempts: Annotated[int, Field(examples=[3])]
    """Number of attempts that began."""
    trained_tokens: Tokens
    """Tokens trained on by jobs that ended."""
    num_model_requests: Annotated[int, Field(examples=[240])]
    """Number of answered requests, of whole days (UTC) that begin here."""
    input_tokens: Tokens
    """Tokens of their prompts."""
    output_tokens: Tokens
    """Tokens of their answers."""
    amount: Money | None
    """What the device seconds cost, by the price that each attempt's pool had when it began; null:
    they had none.
    """

    @classmethod
    def of(cls, used: Used, names: Mapping[str, str]) -> "UsageResult":
        by = used.by
        called = {name: names.get(by[name] or "") for name in DIMENSIONS}
        money = None
        if used.cost is not None and used.currency:
            money = Money(value=used.cost, currency=used.currency)
        return cls(
            project_id=by["project_id"],
            project=called["project_id"],
            api_key_id=by["api_key_id"],
            api_key=called["api_key_id"],
            user_id=by["user_id"],
            user=called["user_id"],
            model=by["model"],
            pool=by["pool"],
            device_seconds=used.device_seconds,
            num_attempts=used.attempts,
            trained_tokens=used.trained_tokens,
            num_model_requests=used.answers,
            input_tokens=used.prompt_tokens,
            output_tokens=used.completion_tokens,
            amount=money,
        )


class UsageBucket(Described):
    """A stretch of time, and what was taken in it."""

    object: Kind[Literal["bucket"]] = "bucket"
    start_time: UnixTime
    """When it begins, in Unix seconds (UTC)."""
    end_time: UnixTime
    """When it is over, in Unix seconds (UTC)."""
    results: list[UsageResult]
    """What was taken, by each group; empty: nothing."""


class UsagePage(Described):
    """A part of a report, oldest bucket first."""

    object: Kind[Literal["page"]] = "page"
    data: list[UsageBucket]
    """The buckets of this page."""
    has_more: bool
    """Whether there are later buckets."""
    next_page: Annotated[str, Field(examples=["page_1764547200"])] | None
    """`page` of the next request; null: this is the last one."""
    warnings: BudgetWarnings

    @classmethod
    def of(
        cls,
        span: Span,
        whole: Span,
        found: Mapping[datetime, list[Used]],
        names: Mapping[str, str],
        warnings: list[str],
    ) -> "UsagePage":
        buckets = [
            UsageBucket(
                start_time=seconds(since),
                end_time=seconds(until),
                results=[UsageResult.of(one, names) for one in found.get(span.floor(since), ())],
            )
            for since, until in span.buckets
        ]
        has_more = span.until < whole.until
        after = f"page_{seconds(span.until)}" if has_more else None
        return cls(data=buckets, has_more=has_more, next_page=after, warnings=warnings)

    def as_csv(self) -> str:
        """A line for each result."""
        shown = [name for name in UsageResult.model_fields if name not in {"object", "amount"}]
        written = io.StringIO()
        lines = csv.writer(written, lineterminator="\n")
        lines.writerow(["start_time", "end_time", *shown, "amount", "currency"])
        for bucket in self.data:
            for one in bucket.results:
                money = [one.amount.value, one.amount.currency] if one.amount else ["", ""]
                cells = [cell(getattr(one, name)) for name in shown]
                lines.writerow([bucket.start_time, bucket.end_time, *cells, *money])
        return written.getvalue()
