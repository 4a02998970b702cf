"""`tunery models add`: a base model's folder, described and registered; or its name on a hub."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import ProxyHandler, Request, build_opener

from openai import OpenAI
from rich.console import Console

from tunery import hub
from tunery.base_model import describe
from tunery.cli.access import is_local, service
from tunery.cli.examine import LATER, examine
from tunery.cli.show import plain, print_json
from tunery.cli.wanted_template import jinja_of, written
from tunery.data.jinja import TemplateError
from tunery.data.ollama import not_for_ollama
from tunery.data.template import ChatTokenizer, in_pieces
from tunery.errors import InvalidRequest
from tunery.facts import STORED, BaseModelFacts


def run(
    model: str,
    *,
    name: str | None,
    revision: str | None,
    licence: str | None,
    as_json: bool,
    chat_template: str | None,
) -> None:
    folder, console = Path(model), plain(as_json=as_json)
    with told(), service(admin=True) as client:
        if folder.is_dir():
            facts = add_folder(
                client, folder, name, revision, licence, chat_template, console.print
            )
        else:
            facts = add_from_hub(client, model, name, revision, licence, chat_template)
    if as_json:
        print_json(facts.model_dump(mode="json"))
        return
    console.print(
        f"{facts.id} at revision {facts.revision}: {facts.architecture}, context "
        f"{facts.context_length:,} tokens, {sum(file.bytes for file in facts.files):,} bytes"
    )
    if facts.examined:
        console.print(f"Its rows are computed {facts.examined.way} (examined here)")
    elif not folder.is_dir():
        console.print(LATER)


def add_folder(
    client: OpenAI,
    folder: Path,
    name: str | None,
    revision: str | None,
    licence: str | None,
    chat_template: str | None,
    say: Callable[[str], None],
) -> BaseModelFacts:
    if name is None:
        raise InvalidRequest(f"{folder} is a folder: say what jobs call it, with --name NAME.")
    facts = facts_of(folder, name, revision, licence, chat_template, say)
    register(client, facts)
    return facts


def facts_of(
    folder: Path,
    name: str,
    revision: str | None,
    licence: str | None,
    chat_template: str | None,
    say: Callable[[str], None],
    *,
    source: str | None = None,
) -> BaseModelFacts:
    """The examination comes before the hashing, which takes longer."""
    examined = examine(folder, say)
    facts = describe(folder, id_=name, revision=revision, licence=licence, source=source)
    facts.examined = examined
    facts.not_for_ollama = not_for_ollama(folder)
    if chat_template is not None:
        facts.chat_template = template_at(folder, chat_template)
    return facts


@contextmanager
def told(after: str = "") -> Iterator[None]:
    """What goes wrong in it ends the command in words; `after` follows a failure of the network or
    the disk.
    """
    try:
        yield
    except InvalidRequest as error:
        sys.exit(f"tunery: {error.message}")
    except HTTPError as error:
        sys.exit(f"tunery: {error}: {error.read(1_000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"tunery: {error}.{after}" if after else f"tunery: {error}")


def add_from_hub(
    client: OpenAI,
    model: str,
    name: str | None,
    revision: str | None,
    licence: str | None,
    chat_template: str | None,
) -> BaseModelFacts:
    """The service asks the hub."""
    repository, _, named = model.partition("@")
    if "/" not in repository or not hub.REPOSITORY.fullmatch(repository):
        raise InvalidRequest(f"There is no folder {model}, and it is no name on a hub (ORG/NAME).")
    if named and revision:
        raise InvalidRequest(f"{model} names a revision, and so does --revision. Leave one out.")
    asked = {
        "hub": repository,
        "revision": named or revision,
        "id": None if name == repository else name,
        "licence": licence,
        "chat_template": chat_template and written(chat_template),
    }
    return BaseModelFacts.model_validate(
        client.post("/admin/models", body=asked, cast_to=dict[str, Any])
    )


def push(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    licence: str | None,
    chat_template: str | None,
    as_json: bool,
) -> None:
    """Sends the folder's files into the service's storage, and registers them. What is there
    already is not sent again.
    """
    console = plain(as_json=as_json)
    again = " Run it again: what was sent is not sent twice."
    with told(again), service(admin=True) as client:
        facts = facts_of(
            folder, name, revision, licence, chat_template, console.print, source=STORED
        )
        for file in facts.files:
            target = client.post(
                "/admin/models/files", body=file.model_dump(), cast_to=dict[str, Any]
            )
            if target["url"]:
                console.print(f"Sending {file.name}, {file.bytes:,} bytes")
                where = urljoin(str(client.base_url), target["url"])
                send(folder / file.name, where, target)
        client.post("/admin/models", body=facts.model_dump(), cast_to=object)
    if as_json:
        print_json(facts.model_dump(mode="json"))
        return
    plain().print(f"{facts.id} at revision {facts.revision} is in the service's storage")


def send(path: Path, where: str, target: dict[str, Any]) -> None:
    """To storage itself if that takes it, else to the API."""
    length = {"content-length": str(path.stat().st_size)}
    if direct := target.get("direct"):
        try:
            with path.open("rb") as content:
                put(direct["url"], content, length | direct["headers"])
        except OSError as error:
            note = f"Storage itself cannot be reached ({error}); sending by way of the API"
            Console(stderr=True).print(note, markup=False)
        else:
            return
    with path.open("rb") as content:
        put(where, content, length | target["headers"])


def put(where: str, content: bytes | IO[bytes], headers: dict[str, str]) -> None:
    """The oldest SDK that we stand on sends no bytes as they are."""
    # As `Access.client`: no proxy for what stays on this machine.
    proxies = ProxyHandler({}) if is_local(where) else ProxyHandler()
    request = Request(where, content, headers, method="PUT")  # noqa: S310
    build_opener(proxies).open(request).close()


def template_at(folder: Path, named: str) -> str:
    """By its name, or in a file. What the folder's tokenizer does not have of it is said.

    Raises:
        InvalidRequest: there is none, or it is no Jinja.

    """
    template = jinja_of(named)
    try:
        pieces = ChatTokenizer(folder, template).written_in_pieces()
    except TemplateError as error:
        raise InvalidRequest(f"--chat-template: {error}.") from error
    if pieces:
        Console(stderr=True).print(f"Warning: {in_pieces(pieces)}", markup=False)
    return template


def register(client: OpenAI, facts: BaseModelFacts) -> None:
    """And sends what counting tokens there needs. A repeated registration changes nothing."""
    client.post("/admin/models", body=facts.model_dump(), cast_to=object)
    for file in facts.tokenizer:
        where = f"{client.base_url}admin/models/{file.name}?{urlencode({'model': facts.id})}"
        put(where, (Path(facts.source) / file.name).read_bytes(), client.auth_headers)
