"""`tunery login`: which service the commands talk to from now on, and with which key."""

import sys
from typing import Any

import typer
from openai import OpenAIError

from tunery.cli import browser_login, profile
from tunery.cli.access import Access, NoAccess, in_words, is_local, key_of, shell, url_of
from tunery.cli.profile import BrokenProfile, Profile
from tunery.cli.show import plain, print_json


def run(
    url: str, *, with_key: bool = False, browser: bool | None = None, as_json: bool = False
) -> None:
    """The key is made by whoever signs in in a browser, if people sign in to the service; else it
    is asked for. What is piped in is a key too: an argument would show it to every user of the
    machine. It is kept once the service has taken it.
    """
    console = plain(as_json=as_json)
    try:
        url = url_of(url, "URL")
        if url.startswith("http://") and not is_local(url):
            console.print(f"{url} is not encrypted: whoever is on the way there can read the key.")
        if not with_key and in_browser(url, browser):
            key = browser_login.new_key(url, console, opens=browser is not False)
        elif sys.stdin.isatty():
            key = typer.prompt(f"API key for {url}", hide_input=True)
        else:
            key = sys.stdin.readline()
        key = key_of(key.strip(), "What was given")
        access = Access(url, key)
        project = prove(access)
        profile.write(Profile(url=url, key=key))
    except (NoAccess, BrokenProfile) as error:
        sys.exit(f"tunery: {error}")
    except OpenAIError as error:
        sys.exit(f"tunery: {in_words(error, access)}")
    console.print(f"Logged in to {url}, project {project['name']}. Kept in {profile.path()}.")
    if as_json:
        print_json(project)
    if shell("TUNERY_URL"):
        console.print("TUNERY_URL is set in this shell, and goes before it.")


def in_browser(url: str, asked: bool | None) -> bool:
    """Raises `NoAccess` where that is asked for and people do not sign in."""
    if asked is None and not sys.stdin.isatty():
        return False
    provider = browser_login.provider_of(url)
    if asked is not None and provider is None:
        raise NoAccess(f"People sign in to {url} with API keys alone. Leave the option out.")
    return provider is not None


def prove(access: Access) -> dict[str, Any]:
    """The key's project. Raises `NoAccess` where another program answers, and the SDK's
    errors.
    """
    with access.client() as client:
        # Only Tunery has this route; another server may take any key for its models.
        answer = client.get("/project", cast_to=dict[str, Any])
    if not isinstance(answer, dict) or answer.get("object") != "project":
        raise NoAccess(f"{access.url} answers, and not as Tunery does.")
    return answer
