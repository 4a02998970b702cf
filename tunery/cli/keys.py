"""`tunery keys`: make, list and revoke API keys, as the operator of the service."""

import sys
import time
from typing import Any

from openai import OpenAI
from rich.console import Console

from tunery.cli.access import service

Thing = dict[str, Any]


def create(project: str, scopes: list[str], name: str | None, expires_days: float | None) -> None:
    """Prints the key alone, so that it can be piped. A new name makes a new project."""
    asked = {"scopes": scopes, "name": name, "expires_days": expires_days}
    body = {field: value for field, value in asked.items() if value is not None}
    with service(admin=True) as client:
        found = find(client, project)
        if found is None:
            found = client.post("/admin/projects", body={"name": project}, cast_to=Thing)
        made = client.post(f"/admin/projects/{found['id']}/keys", body=body, cast_to=Thing)
    sys.stdout.write(f"{made['key']}\n")


def show(project: str) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with service(admin=True) as client:
        for key in keys_of(client, project):
            ends = [("revoked", key["revoked_at"]), ("expires", key["expires_at"])]
            end = next((f"{word} {day(at)}" for word, at in ends if at), "")
            used = f"used {day(key['last_used_at'])}" if key["last_used_at"] else "never used"
            words = (key["id"], key["prefix"], ",".join(key["scopes"]), key["name"] or "-", used)
            console.print("  ".join((*words, end)).rstrip())


def revoke(key_id: str, project: str) -> None:
    with service(admin=True) as client:
        client.delete(f"/admin/projects/{project_id(client, project)}/keys/{key_id}", cast_to=Thing)
    sys.stdout.write(f"{key_id} is revoked: within three seconds no server takes it.\n")


def keys_of(client: OpenAI, project: str) -> list[Thing]:
    path = f"/admin/projects/{project_id(client, project)}/keys"
    return list(client.get(path, cast_to=Thing)["data"])


def project_id(client: OpenAI, name: str) -> str:
    found = find(client, name)
    if found is None:
        sys.exit(f"tunery: there is no project {name!r}.")
    return str(found["id"])


def find(client: OpenAI, name: str) -> Thing | None:
    after = ""
    while True:
        page = client.get(f"/admin/projects?limit=1000{after}", cast_to=Thing)
        for project in page["data"]:
            if project["name"] == name:
                return dict(project)
        if not page["has_more"]:
            return None
        after = f"&after={page['data'][-1]['id']}"


def day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
