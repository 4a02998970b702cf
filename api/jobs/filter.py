"""Which jobs a list is asked for, out of the query of its address."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from api.http.dependencies import Order
from api.jobs.listing import Wanted
from tunery.errors import InvalidRequest
from tunery.states import JobState

MOST_PAIRS = 16
LATEST = 253_402_300_799  # the last second of the year 9999

# As OpenAI has it; FastAPI cannot say it.
METADATA: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "schema": {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "null"},
        ]
    },
    "description": "Jobs that carry all these pairs: `metadata[key]=value`. `metadata=null`: those "
    "without any.",
}

Name = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=512,
        description="Jobs on this base model, or that go on from this tuned model (`ft:...`).",
    ),
]


def created(sign: str, words: str) -> Any:  # noqa: ANN401 (what `Annotated` takes)
    return Query(
        alias=f"created_at[{sign}]",
        ge=0,
        le=LATEST,
        description=f"Jobs created {words} this time, in Unix seconds (UTC).",
    )


async def read_filter(
    request: Request,
    status: Annotated[
        list[JobState],
        Query(default_factory=list, description="Jobs in one of these states."),
    ],
    status_list: Annotated[
        list[JobState],
        Query(
            alias="status[]",
            default_factory=list,
            description="The same as `status`, as the SDKs write a list.",
        ),
    ],
    model: Name = None,
    created_gt: Annotated[int | None, created("gt", "after")] = None,
    created_gte: Annotated[int | None, created("gte", "at or after")] = None,
    created_lt: Annotated[int | None, created("lt", "before")] = None,
    created_lte: Annotated[int | None, created("lte", "at or before")] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=128,
            description="Jobs with this in their id, suffix or tuned model's name, in either case.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=512,
            description="Jobs that train on this file, or are validated on it.",
        ),
    ] = None,
    order: Order = "desc",
) -> Wanted:
    signs = {">": created_gt, ">=": created_gte, "<": created_lt, "<=": created_lte}
    return Wanted(
        states=frozenset(status + status_list),
        model=model,
        created=tuple(
            (sign, datetime.fromtimestamp(time, UTC))
            for sign, time in signs.items()
            if time is not None
        ),
        part=q,
        file=file,
        metadata=metadata_of(request),
        oldest_first=order == "asc",
    )


AFilter = Annotated[Wanted, Depends(read_filter)]


def metadata_of(request: Request) -> dict[str, str] | None:
    """The `metadata[key]=value` parameters; None for `metadata=null`: jobs without any."""
    plain = request.query_params.get("metadata")
    pairs = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[")
    }
    if plain not in {None, "null", ""}:  # openai-node writes null as nothing
        raise InvalidRequest(
            "metadata: write metadata[KEY]=VALUE for jobs with that pair, or metadata=null for "
            "those without any.",
            param="metadata",
        )
    if plain is not None and pairs:
        raise InvalidRequest("metadata: send pairs or null, not both.", param="metadata")
    if len(pairs) > MOST_PAIRS:
        raise InvalidRequest(f"A job has at most {MOST_PAIRS} metadata pairs.", param="metadata")
    return None if plain is not None else pairs
