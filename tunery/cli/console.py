"""`tunery open`: the console in a browser, signed in without a key that anybody copies."""

import webbrowser

from openai import OpenAI

from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.cli.verbs import Answer

MINUTES = 15


def run(*, browser: bool, as_json: bool) -> None:
    """As the operator where this machine has an admin key."""
    with service(admin=True) as client:
        link = sign_in_link(client)
    if as_json:
        print_json({"url": link})
    console = plain(as_json=as_json)
    if browser and webbrowser.open(link):
        console.print("The console is open in your browser. If you do not see it, go to:")
    console.print(link)
    console.print(f"The link is good for once, within {MINUTES} minutes.")


def sign_in_link(client: OpenAI) -> str:
    """Opens the console once, as whoever the client's key is."""
    made = client.post("/sign_in_codes", cast_to=Answer)
    address = str(client.base_url).rstrip("/").removesuffix("/v1")
    return f"{address}/#/sign-in?code={made['code']}"
