"""Every error leaves in OpenAI's envelope: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Annotated, Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from psycopg import errors as postgres
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.http import counts
from api.http.request_lines import REFUSAL
from tunery import errors, other_names
from tunery.fields import Described

log = logging.getLogger(__name__)

# Faults of one request that its answer names.
MOST_TOLD = 10

STATUS: dict[type[errors.TuneryError], int] = {
    errors.InvalidRequest: 400,
    errors.DoesNotFit: 400,
    errors.CannotAnswer: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.LeaseLost: 409,
    errors.TooLarge: 413,
    errors.WrongContentType: 415,
    errors.FileHasFaults: 422,
    errors.KeyReused: 422,
    errors.ProtocolTooOld: 426,
    errors.QuotaReached: 429,
    errors.RateLimited: 429,
    errors.BytesGone: 404,
    errors.BytesDamaged: 500,
    errors.Busy: 503,
    errors.NoWorkerFree: 503,
    errors.AnswerLost: 503,
    errors.EndpointAway: 503,
    errors.ModelNotVerified: 503,
    errors.WrongSchema: 503,
    errors.MadeByNewer: 503,
    errors.StorageAway: 503,
    errors.HubAway: 503,
    errors.SignInAway: 503,
    errors.StorageFull: 507,
}

# The database is there and well, and has no answer in time.
IN_THE_WAY = (
    postgres.LockNotAvailable,
    postgres.DeadlockDetected,
    postgres.SerializationFailure,
    postgres.QueryCanceled,
)

# Of where pydantic found a fault: the part of the request, and which kind of body it was taken for.
NOT_FIELDS = {"body", "query", "path", "header", "by name", "by its files"}

# What every route may answer, and what one that changes something may besides. (Without its 422,
# FastAPI would document one of its own shape.)
READING = (400, 401, 403, 404, 409, 422, 429, 500, 503)
WRITING = (*READING, 413, 415, 507)


class Error(Described):
    """As OpenAI has it: all four keys are there."""

    message: Annotated[str, Field(examples=["No file 'file-1' in this project. List them."])]
    """What is wrong, where, and what to do about it, in sentences for people."""
    type: Annotated[str, Field(examples=["invalid_request_error"])]
    """The kind of error: `invalid_request_error`, `server_error`, or with status 429
    `insufficient_quota` or `requests`.
    """
    param: Annotated[str, Field(examples=["training_file"])] | None
    """The field or parameter of the request that is at fault; null: no single one."""
    code: Annotated[str, Field(examples=["not_found"])] | None
    """Error code, for programs; null: this error has none."""


class Envelope(Described):
    """The body of every error response."""

    error: Error
    """What is wrong."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These refusals, for /openapi.json."""
    return {
        status: {"model": Envelope, "description": HTTPStatus(status).phrase} for status in statuses
    }


# By their codes, refusals that asking again does not change, though the SDKs would.
UNCHANGING = {errors.QuotaReached.code, errors.BytesDamaged.code}

# OpenAI's types of what it answers with 429, by code.
TYPES = {errors.QuotaReached.code: "insufficient_quota", errors.RateLimited.code: "requests"}


def envelope(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> JSONResponse:
    kind = "server_error" if status >= 500 else TYPES.get(code or "", "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 408:
        headers["connection"] = "close"
    if status in {409, 422, 507} or code in UNCHANGING:
        headers["x-should-retry"] = "false"
    if status == 503:
        headers["retry-after"] = "10" if code == errors.NoWorkerFree.code else "2"
    return JSONResponse(body, status, headers)


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.TuneryError, on_domain_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(DataError, on_unstorable)
    app.add_exception_handler(UnicodeEncodeError, on_unstorable)
    app.add_exception_handler(OperationalError, on_unavailable)
    app.add_exception_handler(PoolTimeout, on_unavailable)


def on_domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.TuneryError)  # noqa: S101
    if isinstance(error, errors.LeaseLost):
        counts.fenced(counts.route_of(request.scope).rpartition("/")[2])
    request.scope[REFUSAL] = error.code
    answer = envelope(STATUS[type(error)], error.message, param=error.param, code=error.code)
    if isinstance(error, errors.RateLimited):
        answer.headers["retry-after"] = str(error.retry_after)
    return answer


def on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    if isinstance(error.body, bytes) and error.body:
        kind = request.headers.get("content-type", "without a content type")[:64]
        message = f"Send the body as application/json; it came {kind}."
        return envelope(415, message, code=errors.WrongContentType.code)
    body = body_of(request)
    found = [in_words(fault, body) for fault in error.errors()]
    told = list(dict.fromkeys(message for _, message in found))
    more = f" … and {len(told) - MOST_TOLD} more." if len(told) > MOST_TOLD else ""
    message = f"{' '.join(told[:MOST_TOLD])}{more}"
    return envelope(400, message, param=found[0][0], code="invalid_value")


def body_of(request: Request) -> Any:  # noqa: ANN401 - a type, or None
    """What the route's body is to be."""
    route = request.scope.get("route")
    params = route.dependant.body_params if isinstance(route, APIRoute) else []
    return params[0].field_info.annotation if len(params) == 1 else None


def fields_at(kind: Any, place: Sequence[str]) -> Iterable[str]:  # noqa: ANN401 - any type
    """The names that the object at that place of a body may have; none, if it is no object."""
    options = [kind, *get_args(kind)]
    models = [each for each in options if isinstance(each, type) and issubclass(each, BaseModel)]
    for model in models:
        if not place:
            return model.model_fields
        if field := model.model_fields.get(place[0]):
            return fields_at(field.annotation, place[1:])
    return ()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest name, or why there is no such setting, behind a blank; else nothing."""
    if name in other_names.ONLY:
        reason = other_names.ONLY[name][1]
        return f" {reason[0].upper()}{reason[1:]}."
    if name in other_names.HYPERPARAMETERS and "num_epochs" in known:
        return f" It is a hyperparameter: send it as method.TYPE.hyperparameters.{name}."
    ours = {each: each for each in known if each != "without_effect"}
    others = {**other_names.LORA, **other_names.TRAINING}
    names = {theirs: own for theirs, own in others.items() if own in ours} | ours
    near = get_close_matches(name, names, n=1)
    return f" Did you mean {names[near[0]]}?" if near else ""


def in_envelope(status: int, text: str) -> JSONResponse:
    """What a library refused in plain text: a body over its limit, a range that is not there."""
    if status == 413:
        message = "The request's body is too large. Data sets go to POST /v1/files."
        return envelope(status, message, code=errors.TooLarge.code)
    if status >= 500:
        return envelope(status, "The server failed on this request.", code="crashed")
    if status == 416:
        return envelope(status, "The file has no such range of bytes.", code="invalid_range")
    return envelope(status, text or "The request cannot be understood.", code="invalid_value")


def in_words(fault: dict[str, Any], body: Any) -> tuple[str | None, str]:  # noqa: ANN401
    """(field path, sentence) of one of pydantic's findings in a body of that type."""
    place = [str(part) for part in fault["loc"] if part not in NOT_FIELDS]
    if fault["type"] == "json_invalid":
        return None, f"The request body is not valid JSON: {fault['ctx']['error']}."
    if fault["type"] in {"missing", "model_attributes_type"} and not place:
        return None, "The request needs a JSON object as its body."
    param = ".".join(place) or None
    message = str(fault["msg"]).removeprefix("Value error, ")
    hint = ""
    if fault["type"] == "extra_forbidden":
        message = "is not known here; remove it"
        hint = did_you_mean(place[-1], fields_at(body, place[:-1]))
    elif fault["type"] == "missing":
        message = "is required"
    return param, f"{param}: {message}.{hint}" if param else f"{message}."


def on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        message = f"No route {request.method} {request.url.path}."
        if not request.url.path.startswith("/v1/") and is_route(request, f"/v1{request.url.path}"):
            message += f" Add /v1 to the base URL: {str(request.base_url).rstrip('/')}/v1"
        return envelope(404, message, code="unknown_route")
    if error.status_code == 405:
        allowed = ", ".join(methods_of(request))
        message = f"{request.method} is not allowed on {request.url.path}; it takes {allowed}."
        answer = envelope(405, message, code="method_not_allowed")
        answer.headers["allow"] = allowed
        return answer
    if error.status_code == 413:
        return in_envelope(413, "")
    if error.status_code == 408:
        message = "The request's body did not come on for too long. Send it again, faster."
        return envelope(408, message, code="too_slow")
    return envelope(error.status_code, str(error.detail))


def is_route(request: Request, path: str) -> bool:
    scope = {**request.scope, "path": path}
    routes = iter_route_contexts(request.app.routes)
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def methods_of(request: Request) -> list[str]:
    """What the routes at this address take. (Starlette names the methods of the first alone.)"""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= route.methods or set()
    return sorted(found | {"HEAD"} if "GET" in found else found)


def on_unstorable(_: Request, error: Exception) -> JSONResponse:
    log.info("a value that cannot be stored: %s", type(error).__name__)
    return envelope(400, "The request holds a number out of range, or text that is not Unicode.")


def on_unavailable(request: Request, error: Exception) -> JSONResponse:
    what, cause = f"{request.method} {request.url.path}", getattr(error, "orig", None)
    if isinstance(cause, postgres.DiskFull):
        log.error("%s: the database's disk is full", what)
        message = "The disk of the server's database is full; nothing was stored."
        return envelope(507, message, code=errors.StorageFull.code)
    if isinstance(cause, IN_THE_WAY) or isinstance(error, PoolTimeout):
        log.warning("%s: the database is busy (%s)", what, cause or error)
        message = "Other requests are in this one's way. Try again in a moment."
        return envelope(503, message, code=errors.Busy.code)
    log.error("%s: the database is away", what, exc_info=error)
    return envelope(503, "The database is not available right now.", code="service_unavailable")
