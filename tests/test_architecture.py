"""The rules that no reader should have to remember."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.http.routing import Route
from api.main import ROUTERS

ROOT = Path(__file__).parents[1]
SERVER_MODULES = sorted((ROOT / "api").rglob("*.py"))


def test_only_the_engine_loads_torch(tmp_path: Path) -> None:
    probe = """
import importlib, sys
for module in "tunery.cli.main", "worker.app", "api.janitor", "api.main":
    importlib.import_module(module)
    if loaded := {"torch", "transformers", "peft"} & set(sys.modules):
        sys.exit(f"{module} loads {loaded}")
"""
    env = {
        "REDIS_URL": "redis://localhost",
        "TUNERY_API_URL": "http://localhost",
        "TUNERY_WORKER_KEY": "none",
        "TUNERY_WORK_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_engine_loads_no_compiler() -> None:
    """A second of a cold start, for what nothing calls."""
    probe = "import worker.engine.child, sys; print('torch._inductor.compile_fx' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", probe], cwd=ROOT) == b"False\n"


def test_only_the_two_transactions_of_the_database_commit() -> None:
    """And whoever migrates it: that is many transactions."""
    ending = {
        path.relative_to(ROOT).as_posix()
        for path in SERVER_MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"commit", "rollback"}
    }
    assert ending == {"api/db/session.py", "api/db/migrating.py"}


def test_no_route_imports_redis_or_celery() -> None:
    for path in SERVER_MODULES:
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert path.name == "janitor.py" or not imported & {"redis", "celery", "kombu"}


def test_every_route_reads_json_strictly_and_documents_its_refusals() -> None:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, Route), f"{route}: give its router route_class=Route"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    routes = [route for router in ROUTERS for route in router.routes]
    return get_openapi(title="", version="", routes=routes)


def test_every_operation_says_what_it_does_and_where_it_belongs(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation.get("description"), f"{verb} {path} needs a docstring"
            assert operation.get("tags"), f"{verb} {path}: its router needs tags"


def test_every_parameter_of_the_api_says_what_it_is(document: dict[str, Any]) -> None:
    unsaid = [
        f"{verb} {path} {parameter['name']}"
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert unsaid == []


def test_every_field_of_the_api_says_what_it_is_and_gives_an_example(
    document: dict[str, Any],
) -> None:
    fields = {
        f"{name}.{field}": schema
        for name, whole in document["components"]["schemas"].items()
        for field, schema in whole.get("properties", {}).items()
    }
    assert len(fields) > 600
    assert [name for name, schema in fields.items() if not schema.get("description")] == []
    assert [name for name, schema in fields.items() if not has_example(schema)] == []


def has_example(schema: dict[str, Any]) -> bool:
    """Or needs none: all that it may be is written out, or is an object with fields of its own."""
    if schema.get("examples") or {"const", "enum", "$ref"} & schema.keys():
        return True
    if either := schema.get("anyOf") or schema.get("oneOf"):
        return all(map(has_example, either))
    if schema.get("type") == "array":
        return has_example(schema.get("items", {}))
    return schema.get("type") in {"boolean", "null"}


def test_nothing_unpickles() -> None:
    for folder in ("api", "tunery", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text()
            for word in ("torch.load", "import pickle", "joblib", "allow_pickle=True"):
                assert word not in source, path


def test_every_text_list_and_object_of_a_request_has_a_bound() -> None:
    """What comes in the address is bounded by `api.http.edge`."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    document = app.openapi()
    bodies = [
        (f"{method} {path}", media.get("schema", {}))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for media in operation.get("requestBody", {}).get("content", {}).values()
    ]
    assert len(bodies) > 20
    found = {fault for name, body in bodies for fault in unbounded(body, document, name, set())}
    assert sorted(found) == []


# Of the whole in which they stand: `JobEvent.data` is measured as a whole.
FREE = {"JobEvent.data", "Method.reinforcement"}


def unbounded(
    part: dict[str, Any], document: dict[str, Any], where: str, seen: set[str]
) -> Iterator[str]:
    """The places of a JSON schema where a value may be of any length."""
    if ref := part.get("$ref"):
        name = ref.rpartition("/")[2]
        if name not in seen:
            schema = document["components"]["schemas"][name]
            yield from unbounded(schema, document, name, seen | {name})
        return
    for kind in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for one in part.get(kind, ()):
            yield from unbounded(one, document, where, seen)
    match part.get("type"):
        case "string":
            bounds = ("maxLength", "enum", "const", "x-cut-at", "contentMediaType")
            if not any(bound in part for bound in bounds):
                yield where
        case "array":
            if "maxItems" not in part:
                yield where
            if "prefixItems" not in part:  # else they are those
                yield from unbounded(part.get("items", {}), document, f"{where}.[]", seen)
        case "object":
            for name, value in part.get("properties", {}).items():
                yield from unbounded(value, document, f"{where}.{name}", seen)
            if "properties" not in part and "maxProperties" not in part:
                yield where
            values = part.get("additionalProperties")
            if isinstance(values, dict):
                yield from unbounded(values, document, f"{where}.{{}}", seen)
        case None if not part.keys() & {"anyOf", "oneOf", "allOf", "enum", "const"}:
            if where not in FREE and not where.endswith(".{}"):
                yield where
