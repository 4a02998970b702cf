"""The pages of the site that are written from the code: the API, the commands, the settings."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from fastapi.openapi.utils import get_openapi
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.core import TyperGroup

from api.main import ROUTERS
from tunery.cli.main import app

ROOT = Path(__file__).parents[1]
# Of an example, in characters.
LONGEST = 60
METHODS = ("get", "post", "put", "patch", "delete")


# Where the site has what the repository has elsewhere.
MOVED = {
    "](docs/": "](",
    "](CONTRIBUTING.md)": "](contributing.md)",
    "](../CONTRIBUTING.md)": "](contributing.md)",
    "](decisions)": "](decisions/0001-the-row-is-the-job.md)",
    "](decisions/)": "](decisions/0001-the-row-is-the-job.md)",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the written pages to those of the folder; an event of MkDocs."""
    pages = {
        "index": [(ROOT / "README.md").read_text()],
        "contributing": [(ROOT / "CONTRIBUTING.md").read_text()],
        "reference/api": api(),
        "reference/commands": commands(),
        "reference/settings": settings(),
    }
    for name, lines in pages.items():
        files.append(File.generated(config, f"{name}.md", content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Make a page's links those of the site; an event of MkDocs."""
    for written, moved in MOVED.items():
        markdown = markdown.replace(written, moved)
    return markdown


def api() -> Iterator[str]:
    routes = [route for router in ROUTERS for route in router.routes]
    document = get_openapi(title="Tunery", version="", routes=routes)
    yield from ("# Every operation of the API", "")
    yield "Written from the schema that a service gives at `/openapi.json`. How the operations work"
    yield from ("together is on [the API's own page](../api.md). In the examples `$URL` is the", "")
    yield from ("service's address and `$KEY` an API key.", "")
    objects = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                yield from operation(method, path, operations[method])
                yield from call(method, path, operations[method], objects)
    yield from ("# Objects", "")
    for name, schema in objects.items():
        yield from (f"## {name}", "", schema.get("description", ""), "")
        yield from fields(schema)


def operation(method: str, path: str, says: dict[str, Any]) -> Iterator[str]:
    yield from (f"## `{method.upper()} {path}`", "", says.get("description", ""), "")
    if parameters := says.get("parameters"):
        yield from ("| parameter | in | type | |", "|---|---|---|---|")
        for one in parameters:
            description = one.get("description") or one["schema"].get("description", "")
            yield row(f"`{one['name']}`", one["in"], kind(one["schema"]), description)
        yield ""
    for media, body in says.get("requestBody", {}).get("content", {}).items():
        schema = body.get("schema", {})
        yield from (f"Takes {kind(schema)} as `{media}`.", "")
        if "properties" in schema:
            yield from fields(schema)
    for status, answer in says["responses"].items():
        if status < "400":
            bodies = [kind(body.get("schema", {})) for body in answer.get("content", {}).values()]
            yield from (f"Answers {status}: {', '.join(bodies) or 'nothing'}.", "")
    refusals = ", ".join(status for status in sorted(says["responses"]) if status >= "400")
    if refusals:
        yield from (f"Refuses with {refusals} and [what is wrong](#envelope).", "")


def call(method: str, path: str, says: dict[str, Any], objects: dict[str, Any]) -> Iterator[str]:
    """An example: the operation's required parts, with curl."""
    url, asked = path, []
    for one in says.get("parameters", ()):
        value = sample(one["schema"], objects) or one["name"].upper()
        if one["in"] == "path":
            url = url.replace(f"{{{one['name']}}}", value)
        elif one.get("required"):
            asked.append(f"{one['name']}={value}")
    words = ["curl", '-H "Authorization: Bearer $KEY"', f'"$URL{"?".join([url, *asked][:2])}"']
    for media, body in says.get("requestBody", {}).get("content", {}).items():
        if media == "application/json":
            text = json.dumps(sample(body["schema"], objects), ensure_ascii=False)
            words.append(f"--json {shlex.quote(text)}")
        else:
            for name in body["schema"]["required"]:
                value = sample(body["schema"]["properties"][name], objects)
                words.append(f"-F {name}={value or '@rows.jsonl'}")
    if method in {"put", "delete"} or (method == "post" and "requestBody" not in says):
        words.insert(1, f"-X {method.upper()}")
    yield from ("```sh", " ".join(words), "```", "")


def sample(schema: dict[str, Any], objects: dict[str, Any]) -> Any:
    """A value of that kind, out of the schema's examples; None where they have none. Of an object,
    its required fields, or the first one.
    """
    if "$ref" in schema:
        return sample(objects[schema["$ref"].rsplit("/", 1)[-1]], objects)
    if "examples" in schema:
        return schema["examples"][0]
    if "const" in schema or "enum" in schema:
        return schema.get("const") or schema["enum"][0]
    if either := schema.get("anyOf") or schema.get("oneOf"):
        found = [sample(one, objects) for one in either]
        return min((x for x in found if x is not None), key=lambda x: len(str(x)), default=None)
    if schema.get("type") == "array":
        return [sample(schema["items"], objects)]
    if properties := schema.get("properties"):
        names = schema.get("required") or [*properties][:1]
        return {name: sample(properties[name], objects) for name in names}
    return False if schema.get("type") == "boolean" else None


def fields(schema: dict[str, Any]) -> Iterator[str]:
    if not (properties := schema.get("properties")):
        yield from (kind({**schema, "title": ""}), "")
        return
    yield from ("| field | type | | example |", "|---|---|---|---|")
    required = schema.get("required", ())
    for name, one in properties.items():
        must = "required. " if name in required else ""
        yield row(f"`{name}`", kind(one), must + one.get("description", ""), example(one))
    yield ""


def example(schema: dict[str, Any]) -> str:
    """The first that is given of a field, or of what it may be, as JSON."""
    for one in (schema, *schema.get("anyOf", ())):
        if "examples" in one:
            text = json.dumps(one["examples"][0], ensure_ascii=False)
            return f"`{text if len(text) <= LONGEST else text[:LONGEST] + '…'}`"
    return ""


def kind(schema: dict[str, Any]) -> str:
    """A schema's type in a few words, with links to the objects it is made of."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for of in ("anyOf", "oneOf", "allOf"):
        if of in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[of]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def row(*cells: str) -> str:
    escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def commands() -> Iterator[str]:
    yield from ("# Every command", "")
    yield from ("What the commands are for is on [their own page](../cli.md).", "")
    yield from command(typer.main.get_command(app), ("tunery",))


def command(one: Any, names: tuple[str, ...]) -> Iterator[str]:
    """A command's section, or those of a group's commands; Typer's class for both is private."""
    if isinstance(one, TyperGroup):
        for name, below in one.commands.items():
            yield from command(below, (*names, name))
        return
    yield from (f"## `{' '.join(names)}`", "", one.help or "", "")
    if one.epilog:
        yield from (one.epilog.replace("Example: ", "```\n", 1) + "\n```", "")
    yield from ("| option | default | |", "|---|---|---|")
    for option in one.params:
        written = ", ".join(f"`{each}`" for each in (*option.opts, *option.secondary_opts))
        if option.param_type_name == "argument":
            written = f"`{(option.metavar or option.name or '').upper()}`"
        default = "" if option.default is None or callable(option.default) else option.default
        says = getattr(option, "help", None) or ""
        yield row(written, str(default), says)
    yield ""


def settings() -> Iterator[str]:
    """`.env.example`, whose sections become headings: it is where the settings are explained."""
    yield from ("# Every setting", "")
    fenced = False
    for line in (ROOT / ".env.example").read_text().splitlines():
        if line.startswith("# --- "):
            yield from ([*(["```"] if fenced else []), "", f"## {line.strip('#- ')}", "", "```ini"])
            fenced = True
        else:
            yield line if fenced else line.removeprefix("# ")
    yield "```"
