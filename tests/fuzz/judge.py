"""What is wrong with an answer, whatever was asked: by our own /openapi.json and a few rules."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs

# Our insides, which no answer tells (security control S24).
INSIDES = re.compile(
    r"Traceback|site-packages|File \\?\"|psycopg|sqlalchemy|pydantic|SELECT |INSERT "
)
# What the address alone may bring about, on any route.
OFF_ROUTE = {(404, "unknown_route"), (405, "method_not_allowed")}
ENVELOPE = {"message": str, "type": str, "param": str | None, "code": str | None}


class Judge:
    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.validators: dict[str, Any] = {}

    def faults(self, operation: dict[str, Any], answer: httpx.Response) -> Iterator[str]:
        """Each in a few words; `operation` is the document's."""
        status = answer.status_code
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if status >= 500:
            yield f"{status}"
        if not answer.headers.get("x-request-id", "").startswith("req_"):
            yield "no x-request-id"
        if not 1 <= int(answer.headers.get("retry-after", "1")) <= 60:
            yield "a Retry-After that the SDKs would not keep to"
        if status == 409 and answer.headers.get("x-should-retry") != "false":
            yield "409 that the SDKs would send again"
        if status >= 400 and answer.request.method != "HEAD":
            yield from of_refusal(answer, kind)
        if (status, code_of(answer)) in OFF_ROUTE:
            return
        documented = operation["responses"].get(str(status))
        if documented is None:
            yield f"{status} is not documented"
            return
        content = documented.get("content", {})
        if answer.content and kind not in content:
            yield f"{status} comes as {kind}, documented are {sorted(content)}"
        elif answer.content and kind == "application/json":
            yield from self.unlike(content[kind]["schema"], answer)

    def unlike(self, schema: dict[str, Any], answer: httpx.Response) -> Iterator[str]:
        for error in self.validator(schema).iter_errors(answer.json()):
            yield f"{answer.status_code} with {error.message[:100]} at {error.instance_path}"

    def refuses(self, operation: dict[str, Any], body: Any) -> bool:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return not self.validator(schema).is_valid(body)

    def validator(self, schema: dict[str, Any]) -> Any:
        key = str(schema)
        if key not in self.validators:
            whole = {**schema, "components": self.document["components"]}
            self.validators[key] = jsonschema_rs.validator_for(whole)
        return self.validators[key]


def code_of(answer: httpx.Response) -> str | None:
    if answer.status_code < 400 or answer.headers.get("content-type") != "application/json":
        return None
    code: str | None = answer.json()["error"]["code"]
    return code


def of_refusal(answer: httpx.Response, kind: str) -> Iterator[str]:
    if kind != "application/json":
        yield f"{answer.status_code} as {kind}: {answer.text[:100]}"
        return
    error = answer.json()["error"]
    if set(error) != set(ENVELOPE):
        yield f"the error has the keys {sorted(error)}"
    elif not all(isinstance(error[key], kinds) for key, kinds in ENVELOPE.items()):
        yield f"the error has wrong types: {error}"
    elif not error["message"]:
        yield "the error says nothing"
    if INSIDES.search(answer.text):
        yield f"tells our insides: {answer.text[:200]}"
