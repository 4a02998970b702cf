"""`tunery models add`: a base model's folder, described and registered."""

import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from openai import OpenAI
from rich.console import Console

from tunery.base_model import describe
from tunery.cli.access import is_local, service
from tunery.cli.show import plain, print_json
from tunery.data.jinja import TemplateError
from tunery.data.named_templates import template_of
from tunery.data.ollama import not_for_ollama
from tunery.data.template import ChatTokenizer, in_pieces
from tunery.errors import InvalidRequest
from tunery.facts import BaseModelFacts


def run(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    licence: str | None,
    as_json: bool,
    chat_template: str | None = None,
) -> None:
    try:
        with service(admin=True) as client:
            facts = describe(folder, id_=name, revision=revision, licence=licence)
            facts.not_for_ollama = not_for_ollama(folder)
            if chat_template is not None:
                facts.chat_template = template_at(folder, chat_template)
            register(client, facts)
    except InvalidRequest as error:
        sys.exit(f"tunery: {error.message}")
    except HTTPError as error:
        sys.exit(f"tunery: {error}: {error.read(1_000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"tunery: {error}")
    if as_json:
        print_json(facts.model_dump(mode="json"))
        return
    plain().print(
        f"{facts.id} at revision {facts.revision}: {facts.architecture}, context "
        f"{facts.context_length:,} tokens, {sum(file.bytes for file in facts.files):,} bytes"
    )


def template_at(folder: Path, named: str) -> str:
    """By its name, or in a file. What the folder's tokenizer does not have of it is said.

    Raises:
        InvalidRequest: there is none, or it is no Jinja.

    """
    if Path(named).is_file():
        template = Path(named).read_text()
    else:
        template = template_of(named, param="--chat-template")
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
    # As `Access.client`: no proxy for what stays on this machine.
    proxies = ProxyHandler({}) if is_local(str(client.base_url)) else ProxyHandler()
    for file in facts.tokenizer:
        where = f"{client.base_url}admin/models/{file.name}?{urlencode({'model': facts.id})}"
        content = (Path(facts.source) / file.name).read_bytes()
        # The oldest SDK that we stand on sends no bytes as they are.
        put = Request(where, content, client.auth_headers, method="PUT")  # noqa: S310
        build_opener(proxies).open(put).close()
