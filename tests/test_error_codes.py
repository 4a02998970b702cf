"""The page of errors has the codes that the code has: no more, no fewer."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

from api.http.errors import STATUS
from tests.conftest import ROOT
from tunery.states import UploadState
from worker.commands import LOST

PAGE = (ROOT / "docs" / "errors.md").read_text()
API, JOBS = PAGE.split("## Codes of failed jobs")
JOBS, COMPLETIONS = JOBS.split("## Codes of completions that are not answered")
# Where what ends a job is told, and how.
ENDINGS = ("worker", "api/jobs/queue")
SOURCES = {
    path: ast.parse(path.read_text())
    for folder in ("api", "tunery", "worker")
    for path in (ROOT / folder).rglob("*.py")
}


def constants_in(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


CONSTANTS = {name: value for tree in SOURCES.values() for name, value in constants_in(tree).items()}
# What says why a completion is not answered.
REFUSING = {"Refusal", "Unanswerable", "refuse"}
STATUS_OF = {kind.__name__: status for kind, status in STATUS.items()}


def rows_of(text: str) -> Iterator[tuple[str, str]]:
    """(code, the cell beside it)."""
    for first, second in re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE):
        for code in re.findall(r"`(\w+)`", first):
            yield code, second


def codes_in(value: ast.expr | None, constants: dict[str, str] = CONSTANTS) -> list[str]:
    """The code that an expression gives, with a star for what is put in; none, if it is unknown."""
    match value:
        case ast.Constant(value=str(code)):
            return [code]
        case ast.JoinedStr(values=parts):
            return ["".join(x.value if isinstance(x, ast.Constant) else "*" for x in parts)]  # type: ignore[misc]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return [constants[name]] if name in constants else []
        case ast.IfExp():
            return codes_in(value.body, constants) + codes_in(value.orelse, constants)
    return []


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def refusals() -> Iterator[tuple[str, int | None]]:
    """(code, status) of whatever the API raises or answers."""
    yield from ((kind.code, status) for kind, status in STATUS.items() if kind.code)
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or path.is_relative_to(ROOT / "worker"):
                continue
            status: int | None = STATUS_OF.get(name_of(node))
            if name_of(node) == "envelope" and isinstance(node.args[0], ast.Constant):
                status = int(str(node.args[0].value))
            if status or name_of(node) == "envelope":
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        yield from ((code, status) for code in codes_in(keyword.value))


def endings() -> Iterator[str]:
    """The codes that a failed attempt may have."""
    for path, tree in SOURCES.items():
        if not any(path.is_relative_to(ROOT / folder) for folder in ENDINGS):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Call() if name_of(node) in REFUSING:
                    named = []
                case ast.Call(keywords=keywords):
                    named = [each.value for each in keywords if each.arg == "code"]
                    at = {"Untrainable": 0, "failed": 1}.get(name_of(node))
                    named += node.args[at : at + 1] if at is not None else []
                case ast.Dict():
                    named = [v for k, v in zip(node.keys, node.values, strict=True) if is_code(k)]
                case ast.Assign(targets=[ast.Name(id="code")], value=value):
                    named = [value]
                case ast.Return(value=ast.Tuple(elts=[_, code, _])):
                    named = [code]
                case ast.FunctionDef(name="code_of"):
                    named = [each.value for each in node.body if isinstance(each, ast.Return)]  # type: ignore[misc]
                case _:
                    named = []
            for value in named:
                yield from codes_in(value)


def is_code(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == "code"


def test_the_page_has_each_code_of_the_api_with_its_status() -> None:
    told = {code: {int(s) for s in statuses.split(", ")} for code, statuses in rows_of(API)}
    found: dict[str, set[int]] = {}
    for pattern, status in refusals():
        codes = [code for code in told if fnmatch(code, pattern)] or [pattern]
        for code in codes:
            found.setdefault(code, set()).update({status} if status else set())
    assert set(told) == set(found)
    assert {code: s for code, s in found.items() if s and s != told[code]} == {}
    ended = {f"upload_{state}" for state in UploadState if state != UploadState.PENDING}
    assert {code for code in told if code.startswith("upload_")} == ended


def test_the_page_has_each_code_of_a_failed_job() -> None:
    told = {code for code, _ in rows_of(JOBS)}
    needed = ("model", "training_file", "validation_file")
    found = {f"{what}_{how}" for what in needed for how in LOST.values()}
    for pattern in endings():
        found |= {code for code in told if fnmatch(code, pattern)} or {pattern}
    assert told == found


def test_the_page_has_each_code_of_a_completion_that_is_not_answered() -> None:
    found = set()
    for path, tree in SOURCES.items():
        if not any(path.is_relative_to(ROOT / folder) for folder in ("tunery/data", "worker")):
            continue
        constants = CONSTANTS | constants_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node) in REFUSING:
                named = [each.value for each in node.keywords if each.arg == "code"]
                for value in named or node.args[:1]:
                    found |= set(codes_in(value, constants))
    assert {code for code, _ in rows_of(COMPLETIONS)} == found
