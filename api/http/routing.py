"""What every route of ours does: it documents its refusals, and reads JSON strictly.

Python's own reader takes NaN, half surrogate pairs, and a key that comes twice; and it gives up, in
other ways than by a word about the JSON, on deep nesting and on very long numbers.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from api.http import errors

# Deeper than any request of ours, shallower than where recursion ends.
MOST_LEVELS = 32


class Route(APIRoute):
    """To be named as `route_class` by each router."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:  # noqa: ANN401
        statuses = errors.READING if "GET" in given["methods"] else errors.WRITING
        responses = errors.documented(*statuses) | (given["responses"] or {})
        kind = given["response_class"]
        media = getattr(kind, "media_type", None)
        if media and media != JSONResponse.media_type:
            # FastAPI would document the refusals as of the route's own kind; they are JSON.
            responses.setdefault(200, {"content": {media: {}}})
            given["response_class"] = Response
        given["responses"] = responses
        super().__init__(path, endpoint, **given)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

        async def answer_strictly(request: Request) -> Response:
            return await answer(StrictRequest(request.scope, request.receive))

        return answer_strictly


class StrictRequest(Request):
    async def json(self) -> Any:  # noqa: ANN401
        """Raises `json.JSONDecodeError`, whose message ends a sentence."""
        return read_json(await self.body())


def read_json(text: bytes) -> Any:  # noqa: ANN401
    # Refuses NaN, numbers past a double's range, half surrogate pairs, and over 1,024 levels.
    value = orjson.loads(text)
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [child for item in level for child in children(item)]
        if not level:
            break
    else:
        raise refusal(f"it is nested more than {MOST_LEVELS} levels deep")
    return json.loads(text, object_pairs_hook=each_key_once)


def children(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise refusal(f"the key {twice[:64]!r} comes twice in one object")
    return found


def refusal(words: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(words, "", 0)
