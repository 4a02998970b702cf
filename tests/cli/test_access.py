"""Which service the command talks to: the one that was named, and no other."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from tests.cli.test_create import CONFIG
from tests.conftest import BASE, ROOT, Served
from tunery.cli import profile, up
from tunery.cli.main import app
from tunery.cli.profile import Profile
from tunery.cli.service import Running
from tunery.cli.supervisor import Supervisor

# These run a service of their own on this machine.
SERVICES = {("up",), ("demo",), ("worker",), ("admin",)}
OFFLINE = {("validate",)}


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "tunery" / "profile.json"


def run(*words: str, piped: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, words, input=piped)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.split())


def commands(of: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in getattr(of, "commands", {}).items():
        yield from commands(command, (*names, name))
    if not hasattr(of, "commands"):
        yield names, of


COMMANDS = sorted(commands(typer.main.get_command(app)), key=lambda each: each[0])


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """A good value for whatever a command needs, by the parameter's name."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(CONFIG))
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"object": "fine_tuning.job", "model": "m"}))
    grader = tmp_path / "grader.json"
    exact = {"type": "string_check", "name": "exact", "operation": "eq"}
    grader.write_text(json.dumps(exact | {"input": "a", "reference": "a"}))
    manifest = tmp_path / "manifest.json"
    file = {"id": "file-1", "rows": 1, "sha256": "0" * 64}
    spec = {
        "base_model": BASE, "base_revision": "1", "training_file": file, "seed": 1,
        "n_epochs": 1, "batch_size": 1, "learning_rate": 1e-4, "max_length": 64, "lora": {},
    }  # fmt: skip
    told = {"spec": spec, "plan": {"quantization": "none"}, "files": []}
    manifest.write_text(json.dumps(told))
    return {
        "axolotl": str(config),
        "data": str(rows),
        "file": "file-1",
        "folder": str(ROOT / "models" / "tiny"),
        "format_": "merged",
        "grader": str(grader),
        "manifest": str(manifest),
        "model": BASE,
        "name": "org/name",
        "path": str(rows),
        "proof": str(rows),
        "url": "https://api.openai.com",
        "training": str(rows),
        "job": str(job),
    }


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every address that this process looks up or connects to; none of it happens."""
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.mark.parametrize(
    ("names", "command"),
    [pytest.param(*each, id=" ".join(each[0])) for each in COMMANDS if each[0] not in SERVICES],
)
def test_no_command_connects_to_anything_that_nobody_named(
    names: tuple[str, ...],
    command: click.Command,
    given: dict[str, str],
    connections: list[object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai")
    words = [*names]
    if names in OFFLINE:
        given["file"] = given["training"]
    if names == ("login",):
        words.append("https://api.openai.com")
    for parameter in command.params:
        name = str(parameter.name)
        if parameter.param_type_name == "argument":
            words += [given.get(name, "name")] if parameter.required else []
        elif name in given and name != "folder" and names not in OFFLINE:
            words += [parameter.opts[0], given[name]]
    if names == ("status",):
        words.append("ftjob-1")
    code, said = run(*words, piped="sk-for-openai\n")
    assert connections == []
    if names not in OFFLINE:
        assert code == 1, said
        addressed = names in {("login",), ("attest",)}
        assert ("No service is known here" in said) is not addressed, said

    for address in ("https://API.openai.com/v1", "https://me.openai.azure.com/openai"):
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        code, said = run(*words, piped="sk-for-openai\n")
        assert connections == []
        assert names in OFFLINE or (code == 1 and "which is OpenAI" in said), said
    assert not list(tmp_path.glob("config/**/*.json"))


def test_a_login_is_proven_kept_for_its_owner_alone_and_used(
    server: Served, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run("login", server.url, piped="sk-tunery-nonsense\n")
    assert code == 1
    assert "This is not an API key of this service" in said
    assert not config.exists()
    code, said = run("login", server.url, piped=f"{server.key}\n")
    assert (code, f"Logged in to {server.url}/v1, project default" in said) == (0, True), said
    assert server.key not in said
    assert config.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")  # of some other server
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-it")
    assert BASE in run("models", "list")[1]

    code, said = run("keys", "create", "--project", "team-a", "--scopes", "read")
    assert code == 1
    assert "lacks the scope 'admin'. Set TUNERY_ADMIN_KEY" in said
    monkeypatch.setenv("TUNERY_ADMIN_KEY", server.admin_key)
    for _ in range(2):
        code, key = run("keys", "create", "--project", "team-a", "--scopes", "read")
        assert code == 0, key
    made = server.client_for(key)
    assert [model.id for model in made.models.list()] == [BASE]
    newest = run("keys", "list", "--project", "team-a")[1].split()
    assert newest[2] == "read"
    assert run("keys", "revoke", newest[0], "--project", "team-a")[0] == 0
    assert "revoked" in run("keys", "list", "--project", "team-a")[1]

    # What the shell names for Tunery goes first.
    monkeypatch.setenv("TUNERY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TUNERY_KEY", key)
    assert "http://127.0.0.1:1/v1 does not answer" in run("models", "list")[1]


def test_up_leaves_another_login_alone_and_its_own_operator_has_the_admin_key(
    server: Served, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    service = Running(Supervisor(print), f"{server.url}/v1", server.key, server.admin_key)
    assert "find both by themselves" in up.keep_profile(service, ours)
    (ours / "server.env").write_text(f"TUNERY_SECRET=x=\nTUNERY_ADMIN_KEY={server.admin_key}\n")
    assert run("keys", "list")[0] == 0
    for link in (service.console_link(), run("open", "--no-browser")[1].split()[0]):
        address, code = link.split("/#/sign-in?code=")
        opened = httpx.post(
            f"{address}/ui/session", json={"code": code}, headers={"x-tunery-console": "1"}
        )
        assert "admin" in opened.json()["scopes"]
    assert "as before" in up.keep_profile(service, theirs)
    ours.rename(tmp_path / "gone")
    assert "find both by themselves" in up.keep_profile(service, theirs)
    login = Profile(url="https://tunery.example.com/v1", key="sk-elsewhere")
    profile.write(login)
    assert "go to https://tunery.example.com/v1, as before" in up.keep_profile(service, theirs)
    assert profile.read() == login


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8321", "is not an address: '127.0.0.1:8321'. Write it as http://HOST:PORT."),
        ("http://user@host", "holds more than an address"),
        ("http://127.0.0.1:port", "is not an address"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_in_words(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNERY_KEY", "sk-x")
    assert "TUNERY_KEY is set and TUNERY_URL is not" in run("status")[1]
    monkeypatch.setenv("TUNERY_URL", url)
    assert said in run("status")[1]
