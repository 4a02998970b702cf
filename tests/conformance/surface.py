"""What OpenAI's surface is, and where an answer of ours departs from it.

An operation that is added to the server needs its line in `SURFACE` (most have it already) and a
call in `life.py`; the test says so.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import jsonschema_rs
from openai import BaseModel
from openai.types import Completion, FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse
from openai.types.fine_tuning.checkpoints import (
    PermissionDeleteResponse,
    PermissionListResponse,
)
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.uploads import UploadPart
from openai.types.webhooks import (
    DeletedWebhookEndpoint,
    WebhookEndpoint,
    WebhookEndpointTestResult,
    WebhookEndpointWithSecret,
    WebhookEventTypeList,
)
from pydantic import TypeAdapter


@dataclass(frozen=True)
class Answer:
    """One object, a page of them, or a whole list of them; or bytes, or a refusal in words. `event`
    is what it comes in when it is streamed.
    """

    item: type[BaseModel] | None = None
    form: Literal["one", "page", "list", "bytes", "refusal"] = "one"
    event: Any = None


HOOKS = "/v1/webhook_endpoints"
PERMISSIONS = "/v1/fine_tuning/checkpoints/{name}/permissions"
SURFACE = {
    "GET /v1/files": Answer(FileObject, "page"),
    "POST /v1/files": Answer(FileObject),
    "GET /v1/files/{file_id}": Answer(FileObject),
    "DELETE /v1/files/{file_id}": Answer(FileDeleted),
    "GET /v1/files/{file_id}/content": Answer(form="bytes"),
    "POST /v1/uploads": Answer(Upload),
    "POST /v1/uploads/{upload_id}/parts": Answer(UploadPart),
    "POST /v1/uploads/{upload_id}/complete": Answer(Upload),
    "POST /v1/uploads/{upload_id}/cancel": Answer(Upload),
    "GET /v1/fine_tuning/jobs": Answer(FineTuningJob, "page"),
    "POST /v1/fine_tuning/jobs": Answer(FineTuningJob),
    "GET /v1/fine_tuning/jobs/{job_id}": Answer(FineTuningJob),
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": Answer(FineTuningJob),
    "POST /v1/fine_tuning/jobs/{job_id}/pause": Answer(FineTuningJob),
    "POST /v1/fine_tuning/jobs/{job_id}/resume": Answer(FineTuningJob),
    "GET /v1/fine_tuning/jobs/{job_id}/events": Answer(FineTuningJobEvent, "page"),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": Answer(FineTuningJobCheckpoint, "page"),
    f"GET {PERMISSIONS}": Answer(PermissionListResponse, "page"),
    f"POST {PERMISSIONS}": Answer(PermissionListResponse, "list"),
    f"DELETE {PERMISSIONS}/{{permission_id}}": Answer(PermissionDeleteResponse),
    "POST /v1/fine_tuning/alpha/graders/run": Answer(GraderRunResponse),
    "POST /v1/fine_tuning/alpha/graders/validate": Answer(GraderValidateResponse),
    "POST /v1/chat/completions": Answer(ChatCompletion, event=ChatCompletionChunk),
    "POST /v1/completions": Answer(Completion, event=Completion),
    "POST /v1/responses": Answer(Response, event=get_args(ResponseStreamEvent)[0]),
    "GET /v1/models": Answer(Model, "list"),
    "GET /v1/models/{model}": Answer(Model),
    "DELETE /v1/models/{model}": Answer(ModelDeleted),
    "GET /v1/webhook_event_types": Answer(WebhookEventTypeList),
    f"GET {HOOKS}": Answer(WebhookEndpoint, "page"),
    f"POST {HOOKS}": Answer(WebhookEndpointWithSecret),
    f"GET {HOOKS}/{{webhook_id}}": Answer(WebhookEndpoint),
    f"POST {HOOKS}/{{webhook_id}}": Answer(WebhookEndpoint),
    f"DELETE {HOOKS}/{{webhook_id}}": Answer(DeletedWebhookEndpoint),
    f"POST {HOOKS}/{{webhook_id}}/rotate_secret": Answer(WebhookEndpointWithSecret),
    f"POST {HOOKS}/{{webhook_id}}/test": Answer(WebhookEndpointTestResult),
}

# Keys that are there even when they are null; OpenAI's types let some of them be absent.
REQUIRED: dict[type[BaseModel], str] = {
    FileObject: "id object bytes created_at filename purpose status",
    FineTuningJob: "id object created_at error finished_at fine_tuned_model hyperparameters model "
    "organization_id result_files status trained_tokens training_file validation_file seed",
    FineTuningJobEvent: "id object created_at level message",
    FineTuningJobCheckpoint: "id object created_at fine_tuning_job_id fine_tuned_model_checkpoint "
    "metrics step_number",
    Model: "id object created owned_by",
    Upload: "id object bytes created_at expires_at filename purpose status",
    UploadPart: "id object created_at upload_id",
    PermissionListResponse: "id object created_at project_id",
    ChatCompletion: "id object created model choices usage",
    Completion: "id object created model choices usage",
    Response: "id object created_at error incomplete_details instructions metadata model output "
    "parallel_tool_calls temperature tool_choice tools top_p usage",
}
# Keys that may be absent, and are not null.
NOT_NULL: dict[type[BaseModel], str] = {
    FileObject: "expires_at status_details",
    FineTuningJob: "method",
    FineTuningJobEvent: "data type",
}


def mismatches(operation: str, got: httpx.Response, schema: dict[str, Any] | None) -> Iterator[str]:
    """Each in one sentence. `schema` is OpenAI's own document, if it is at hand."""
    if not got.headers.get("x-request-id", "").startswith("req_"):
        yield "no x-request-id"
    answer = SURFACE[operation]
    if answer.form == "refusal":
        yield from of_refusal(got)
        return
    if got.status_code != 200:
        yield f"{got.status_code}: {got.text[:200]}"
        return
    if answer.item is None:
        return
    if got.headers["content-type"].startswith("text/event-stream"):
        yield from of_stream(answer, got.text)
        return
    body = as_openai_names_it(got.json())
    if answer.form == "one":
        yield from of_item(answer.item, body)
    else:
        yield from of_page(answer, body, newest_first="order=asc" not in str(got.url))
    if schema:
        yield from of_schema(operation, body, schema)


def of_stream(answer: Answer, text: str) -> Iterator[str]:
    """Of a chat or a text its last line is `[DONE]`."""
    events: TypeAdapter[Any] = TypeAdapter(answer.event)
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if (data[-1] == "[DONE]") == (answer.item is Response):
        yield f"ends with {data[-1][:100]}"
    for each in data:
        if each == "[DONE]":
            continue
        told = each
        if answer.item is Completion:  # its type is that of the whole, which has ended
            told = each.replace('"finish_reason":null', '"finish_reason":"stop"')
        try:
            events.validate_json(told, strict=True)
        except ValueError as error:
            yield f"an event: {error}"


def of_refusal(got: httpx.Response) -> Iterator[str]:
    error = got.json().get("error")
    if not 400 <= got.status_code < 500 or set(error) != {"message", "type", "param", "code"}:
        yield f"no refusal in the envelope, but {got.status_code}: {got.text[:200]}"


def as_openai_names_it(body: Any) -> Any:
    """OpenAI's own example of a paused job says `paused`, and its list of states does not."""
    if not isinstance(body, dict):
        return body
    if body.get("object") == "list":
        return body | {"data": [as_openai_names_it(item) for item in body["data"]]}
    return body | {"status": "queued"} if body.get("status") == "paused" else body


def of_item(kind: type[BaseModel], item: dict[str, Any]) -> Iterator[str]:
    try:
        kind.model_validate_json(json.dumps(item), strict=True)
    except ValueError as error:
        yield f"{kind.__name__}: {error}"
    for key in REQUIRED.get(kind, "").split():
        if key not in item:
            yield f"{kind.__name__} without {key}"
    for key in NOT_NULL.get(kind, "").split():
        if key in item and item[key] is None:
            yield f"{kind.__name__}.{key}: null, where it should be absent"
    for name, field in kind.model_fields.items():
        lists = str(field.annotation).startswith(("typing.List[", "typing.Optional[typing.List["))
        if lists and name in item and item[name] is None:
            yield f"{kind.__name__}.{name}: null in place of a list"
    if kind is FineTuningJob and (item["status"] == "failed") != (item["error"] is not None):
        yield f"a {item['status']} job has the error {item['error']}"


def of_page(answer: Answer, body: dict[str, Any], *, newest_first: bool) -> Iterator[str]:
    if body.get("object") != "list":
        yield f"its object is {body.get('object')!r}"
    items = body["data"]
    for item in items:
        assert answer.item
        yield from of_item(answer.item, item)
    if answer.form == "list":
        return
    ends = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    if (body["first_id"], body["last_id"]) != ends:
        yield f"first_id and last_id are {body['first_id']}, {body['last_id']} and not {ends}"
    if not isinstance(body["has_more"], bool):
        yield f"has_more is {body['has_more']!r}"
    times = [item["created_at"] for item in items]
    if times != sorted(times, reverse=newest_first):
        yield "not in order"


def read_schema(path: Path) -> Any:
    """OpenAI's document. Its `exclusiveMinimum: true` is of an older JSON Schema than it says."""

    def mended(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if found.get("exclusiveMinimum") is True:
            found["exclusiveMinimum"] = found.pop("minimum")
        return found

    return json.loads(path.read_bytes(), object_pairs_hook=mended)


def of_schema(operation: str, body: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    if body.get("data") == []:  # whose ends are null; the schema knows no empty page of files
        body = body | {"first_id": "", "last_id": ""}
    found = documented_operations(schema).get(nameless(operation))
    if found is None:  # newer than the document
        return
    said = found["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {"components": schema["components"], **said}
    for error in jsonschema_rs.validator_for(whole).iter_errors(body):
        yield f"the schema: {error.message} at {'/'.join(map(str, error.instance_path))}"


def documented_operations(schema: dict[str, Any]) -> dict[str, Any]:
    """The operations of an OpenAPI document, named without the names of their parameters."""
    prefix = "" if any(path.startswith("/v1/") for path in schema["paths"]) else "/v1"
    return {
        nameless(f"{method.upper()} {prefix}{path}"): operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def nameless(operation: str) -> str:
    """`GET /v1/files/{file_id}` as `GET /v1/files/{}`."""
    return re.sub(r"\{[^}]*\}", "{}", operation)
