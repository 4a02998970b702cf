"""`tunery doctor`: what is wrong with an installation, and how to fix it. The API looks at all that
it can see; of an API that does not answer, the command says so itself. With `--worker` the worker's
own check runs on this machine.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from tunery.cli import access, profile
from tunery.cli.show import plain, print_json
from tunery.findings import Finding, ok, worst, wrong

SECONDS = 30.0


class Checks(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: list[Finding]


def run(*, worker: bool, as_json: bool) -> None:
    """Prints a line for each check; exits with 1 if anything is wrong."""
    console, found = plain(), []
    for finding in of_worker() if worker else of_service():
        found.append(finding)
        if not as_json:
            console.print(f"{finding.state:<6} {finding.check:<20} {finding.message}")
            if finding.mend:
                console.print(f"{'':<27} → {finding.mend}")
    if as_json:
        print_json([finding.model_dump() for finding in found])
    if worst(found) == "wrong":
        sys.exit(1)


def of_service() -> Iterator[Finding]:
    try:
        asked = access.find(admin=True)
    except (access.NoAccess, profile.BrokenProfile) as error:
        yield wrong("service", str(error), "Name the service and an operator's key.")
        return
    base = asked.url.removesuffix("/v1")
    with httpx.Client(timeout=SECONDS, trust_env=not access.is_local(asked.url)) as http:
        try:
            yield from ready(http.get(f"{base}/readyz"), base)
            answer = http.get(
                f"{asked.url}/admin/checks", headers={"authorization": f"Bearer {asked.key}"}
            )
        except httpx.HTTPError as error:
            yield wrong(
                "api",
                f"Nothing answers at {base} ({error or type(error).__name__}).",
                "Start the API (`docker compose up -d api`, `tunery up`, `python -m api`), or "
                f"correct {asked.url_from}. Its log says why it ended.",
            )
            return
    yield from all_checks(answer, asked)


def ready(answer: httpx.Response, base: str) -> Iterator[Finding]:
    if answer.status_code == 200:
        yield ok("api", f"{base} answers, and reaches database and storage.")
        return
    yield wrong(
        "api",
        f"{base} is not ready: {said(answer)}",
        "Start what it cannot reach, or correct DATABASE_URL or TUNERY_STORAGE in its settings; "
        "its log says more.",
    )


def all_checks(answer: httpx.Response, asked: access.Access) -> Iterator[Finding]:
    match answer.status_code:
        case 200:
            try:
                yield from Checks.model_validate_json(answer.content).data
            except ValidationError:
                yield wrong(
                    "api",
                    "What answers is no Tunery API, or another version of it.",
                    f"Correct {asked.url_from}, or use the command of the API's version.",
                )
        case 401 | 403:
            yield wrong(
                "key",
                f"{asked.key_from}: {said(answer)}",
                "Set TUNERY_ADMIN_KEY to a key with the scope admin: `tunery keys create --scopes "
                "admin`, or `python -m api.admin create-key --scopes admin` on the server.",
            )
        case 404:
            yield wrong(
                "api",
                "What answers is no Tunery API, or an older one without these checks.",
                f"Correct {asked.url_from}, or upgrade the API.",
            )
        case status:
            yield wrong(
                "checks",
                f"The API cannot check itself ({status}): {said(answer)}",
                "Put that right first; the API's log says more.",
            )


def said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"it answered {answer.status_code}."


def of_worker() -> Iterator[Finding]:
    """As the worker would start here: from the same folder, with the same settings."""
    from tunery.cli.service import ROOT  # noqa: PLC0415

    if find_spec("torch") is None:
        yield wrong(
            "package",
            "This environment has no worker in it: PyTorch is missing.",
            'Install it: pip install "tunery[worker]", or run this where the worker is installed.',
        )
        return
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}  # noqa: TID251
    with subprocess.Popen(
        [sys.executable, "-m", "worker", "--check"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as check:
        assert check.stdout  # noqa: S101
        assert check.stderr  # noqa: S101
        for line in check.stdout:
            yield Finding.model_validate_json(line)
        last = check.stderr.read().strip()
    if check.returncode:
        yield wrong(
            "settings",
            last or f"The check ended with exit code {check.returncode}.",
            "Set them as the worker has them: `set -a; . ./worker.env; tunery doctor --worker`.",
        )
