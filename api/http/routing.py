"""What every route of ours does: it documents its refusals, and reads its query and JSON strictly.

Python's own reader takes NaN, half surrogate pairs, and a key that comes twice; and it gives up, in
other ways than by a word about the JSON, on deep nesting and on very long numbers.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, get_origin

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.http import errors
from api.http.responses import in_json
from api.tenants.places import in_thread
from tunery.errors import InvalidRequest
from tunery.log_lines import learn

# Deeper than any request of ours, shallower than where recursion ends.
MOST_LEVELS = 32
# Of what may be sent as a job's id, so much is logged.
MOST_OF_ID = 64


class Route(APIRoute):
    """To be named as `route_class` by each router: a tenant's route, or an operator's."""

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
        if not iscoroutinefunction(endpoint):
            endpoint = in_its_place(endpoint)
        super().__init__(path, endpoint, **given)

    takes_any_query = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer: Callable[[Request], Awaitable[Response]] = super().get_route_handler()
        known = Query.of(self)

        async def answer_strictly(request: Request) -> Response:
            # A refusal's line says which job it was about, too.
            if job := request.path_params.get("job_id"):
                learn(job=str(job)[:MOST_OF_ID])
            await self.admit(request)
            if not self.takes_any_query:
                known.require(request)
            return await answer(StrictRequest(request.scope, request.receive))

        return answer_strictly

    async def admit(self, request: Request) -> None:
        await request.app.state.server.admit(request)


class WorkerRoute(Route):
    """A worker's: it runs in threads of its own, and needs a worker's key or a lease."""

    async def admit(self, request: Request) -> None:
        await request.app.state.server.admit_worker(request)


class LinkRoute(Route):
    """Needs no key."""

    async def admit(self, request: Request) -> None:
        request.app.state.server.admit_link()


class ReturnRoute(LinkRoute):
    """Where another site sends a browser back to, with whatever it has to say."""

    takes_any_query = True


def in_its_place(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The endpoint, run in a thread as `Route.admit` has it. What it answers is written out there
    too: FastAPI would check it once more, on the event loop.
    """

    @wraps(endpoint)
    async def answer(**given: Any) -> Any:  # noqa: ANN401
        return await in_thread(written, endpoint, given)

    return answer


def written(endpoint: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ANN401
    found = endpoint(**given)
    return in_json(found) if isinstance(found, BaseModel) else found


@dataclass(frozen=True)
class Query:
    """What a route takes behind the `?`: `names`, of which those in `lists` may come several times,
    and `maps`, written as `name[key]=value`. A map is documented in the route's `openapi_extra`.
    """

    names: set[str]
    lists: set[str]
    maps: set[str]

    @classmethod
    def of(cls, route: APIRoute) -> "Query":
        names, lists = set(), set()
        dependants = [route.dependant]
        while dependants:
            dependant = dependants.pop()
            dependants += dependant.dependencies
            for field in dependant.query_params:
                names.add(field.alias)
                if get_origin(field.field_info.annotation) is list:
                    lists.add(field.alias)
        documented = (route.openapi_extra or {}).get("parameters", [])
        maps = {one["name"] for one in documented if one["style"] == "deepObject"}
        return cls(names, lists, maps)

    def require(self, request: Request) -> None:
        """Raises `InvalidRequest` for a parameter that the route does not know, or that comes
        twice.
        """
        sent = Counter(name for name, _ in request.query_params.multi_items())
        for name, times in sent.items():
            shown = name[:64]
            if name not in self.names and not self.in_map(name):
                there = sorted(self.names | {f"{map_}[KEY]" for map_ in self.maps})
                takes = f"It takes {', '.join(there)}." if there else "It takes none."
                raise InvalidRequest(
                    f"{shown}: the query of {request.method} {request.url.path} has no such "
                    f"parameter; remove it. {takes}",
                    param=shown,
                    code="unknown_parameter",
                )
            if times > 1 and name not in self.lists:
                raise InvalidRequest(
                    f"{shown}: comes {times} times in the query; send it once.",
                    param=shown,
                    code="invalid_value",
                )

    def in_map(self, name: str) -> bool:
        """Also by its bare name: a map as a whole may be null."""
        map_, bracket, _ = name.partition("[")
        return map_ in self.maps and (not bracket or name.endswith("]"))


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
