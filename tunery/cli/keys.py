"""`tunery keys`: make, list and revoke API keys, as the operator of the service."""

import sys
from typing import Annotated, Any

import typer

from tunery.cli.show import Json, day, plain, print_json, print_line
from tunery.cli.verbs import Verbs, verbs

app = typer.Typer(help="Manage API keys, as an operator.", no_args_is_help=True)

Project = Annotated[str, typer.Option(help="Name of the project.")]

Thing = dict[str, Any]


@app.command(epilog="Example: tunery keys create --project research --scopes read,write")
def create(
    project: Project = "default",
    scopes: Annotated[
        str, typer.Option(help="Scopes, separated by commas: read, write, admin, worker.")
    ] = "read,write",
    name: Annotated[str | None, typer.Option(help="Name of the key.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days until the key expires.")] = None,
    as_json: Json = False,
) -> None:
    """Print a new API key, shown this once, and nothing else: it can be piped. A new name makes a
    new project. Needs TUNERY_ADMIN_KEY, as `tunery models add` does.
    """
    asked = {"scopes": scopes.split(","), "name": name, "expires_days": expires_days}
    body = {field: value for field, value in asked.items() if value is not None}
    with verbs(admin=True) as ask:
        found = find(ask, project)
        if found is None:
            found = ask.client.post("/admin/projects", body={"name": project}, cast_to=Thing)
        made = ask.client.post(f"/admin/projects/{found['id']}/keys", body=body, cast_to=Thing)
    if as_json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['key']}\n")


@app.command("list", epilog="Example: tunery keys list --project research")
def list_keys(project: Project = "default", as_json: Json = False) -> None:
    """List a project's keys, without their secrets."""
    with verbs(admin=True) as ask:
        path = f"/admin/projects/{project_id(ask, project)}/keys"
        page = ask.client.get(path, cast_to=Thing)
    if as_json:
        print_json(page)
        return
    for key in page["data"]:
        ends = [("revoked", key["revoked_at"]), ("expires", key["expires_at"])]
        end = next((f"{word} {day(at)}" for word, at in ends if at), "")
        used = f"used {day(key['last_used_at'])}" if key["last_used_at"] else "never used"
        words = (key["id"], key["prefix"], ",".join(key["scopes"]), key["name"] or "-", used)
        plain().print("  ".join((*words, end)).rstrip())


@app.command(epilog="Example: tunery keys revoke key-abc123 --project research")
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key.", metavar="KEY_ID")],
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Revoke a key."""
    with verbs(admin=True) as ask:
        path = f"/admin/projects/{project_id(ask, project)}/keys/{key}"
        answer = ask.client.delete(path, cast_to=Thing)
    print_line(
        f"{key} is revoked: within three seconds no server takes it.", answer, as_json=as_json
    )


def project_id(ask: Verbs, name: str) -> str:
    found = find(ask, name)
    if found is None:
        sys.exit(f"tunery: there is no project {name!r}.")
    return str(found["id"])


def find(ask: Verbs, name: str) -> Thing | None:
    after = ""
    while True:
        page = ask.client.get(f"/admin/projects?limit=1000{after}", cast_to=Thing)
        for project in page["data"]:
            if project["name"] == name:
                return dict(project)
        if not page["has_more"]:
            return None
        after = f"&after={page['data'][-1]['id']}"
