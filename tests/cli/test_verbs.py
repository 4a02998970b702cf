"""What the commands and an agent's tools do with jobs, files and models, against a real API."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import click
import httpx
import pytest
from mcp import Client as Agent
from mcp.client.stdio import StdioServerParameters, stdio_client
from typer.testing import CliRunner

from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.cli.test_access import COMMANDS
from tests.conftest import Served
from tests.factories import chat, create_job, upload
from tunery import messages
from tunery.cli import files
from tunery.cli.main import app
from tunery.cli.mcp_server import CHANGES, ENDS, LOOKS
from tunery.measured import Metrics
from worker.client import Client


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.key)


def run(words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, shlex.split(words))
    assert done.exit_code == code, done.output
    return done.output


def answer(words: str) -> Any:
    done = CliRunner().invoke(app, [*shlex.split(words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("names", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in COMMANDS]
)
def test_each_command_shows_an_example_that_it_takes(
    names: tuple[str, ...], command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "config.yml", "job.json", "manifest.json", "grader.json"):
        Path(name).touch()
    Path("models/demo").mkdir(parents=True)
    assert command.help
    assert all(each.help for each in command.params if isinstance(each, click.Option))
    _, _, example = str(command.epilog).partition("Example: ")
    words = shlex.split(example.partition(">")[0].replace("/models/llama", "models/demo"))
    if names == ("mcp",):
        words = words[words.index("--") + 1 :]
    assert words[: 1 + len(names)] == ["tunery", *names]
    command.make_context(names[-1], words[1 + len(names) :])


def test_each_command_that_ends_takes_json() -> None:
    """Services run until they are stopped, and `admin` prints as its own commands do."""
    without = {names for names, command in COMMANDS if "--json" not in options_of(command)}
    assert without == {("up",), ("demo",), ("mcp",), ("worker",), ("admin",)}


def options_of(command: click.Command) -> set[str]:
    return {opt for each in command.params for opt in each.opts}


def test_a_job_is_looked_at_and_changed_by_its_verbs(
    server: Served, worker: Client, tmp_path: Path
) -> None:
    first, second = (create_job(server.client, suffix=name) for name in ("first", "second"))
    page = answer("jobs list --limit 1")
    assert [job["id"] for job in page["data"]] == [second.id]
    assert page == json.loads(raw(server, "/v1/fine_tuning/jobs?limit=1"))
    assert f"tunery jobs list --after {second.id}" in run("jobs list --limit 1")
    assert first.id in run(f"jobs list --after {second.id}")
    assert first.id not in run("jobs list --search second")
    assert "waits for      No worker has connected yet" in run(f"jobs get {first.id}")

    assert run(f"jobs pause {second.id}") == f"{second.id} paused\n"
    assert run("jobs list --status paused").count("ftjob-") == 1
    assert answer(f"jobs resume {second.id}")["status"] == "queued"
    assert run(f"jobs cancel {second.id}") == f"{second.id} cancelled\n"
    assert answer(f"jobs delete {second.id}")["deleted"] is True
    assert "tunery: " in run(f"jobs get {second.id}", code=1)
    assert "is queued and has no model" in run(f"jobs download {first.id}", code=1)
    assert "has no samples" in run(f"jobs samples {first.id}", code=1)

    lease = claim(worker)
    assert lease
    steps = [
        messages.JobEvent(message=f"Step {n}", metrics=Metrics(step=n, train_loss=1 / n))
        for n in (1, 2, 3)
    ]
    worker.add_events(lease, messages.EventBatch(first=0, events=steps))
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    told = run(f"jobs events {first.id} --limit 1000")
    assert re.findall(r"Step \d", told) == ["Step 1", "Step 2", "Step 3"]
    assert run(f"jobs metrics {first.id}").split()[:4] == ["step", "train_loss", "1", "1"]
    assert answer(f"jobs metrics {first.id}")["points"][2] == [3, 1 / 3]
    assert (
        CliRunner().invoke(app, ["jobs", "metrics", first.id, "--csv"]).stdout_bytes[:5] == b"step,"
    )
    assert answer(f"jobs checkpoints {first.id}")["data"] == []

    name = answer(f"jobs get {first.id}")["fine_tuned_model"]
    for words in (f"jobs download {first.id}", f"models download {name}"):
        into = tmp_path / "here"
        assert f"4 files in {into}" in run(f"{words} --into {into}")
        assert {path.name: path.read_bytes() for path in into.iterdir()} == ADAPTER
    (into / "manifest.json").write_text("mine")
    said = run(f"jobs download {first.id} --into {into}", code=1)
    assert "is there already, and it is another file" in said
    assert (into / "manifest.json").read_text() == "mine"

    assert name in {model["id"] for model in answer("models list")["data"]}
    assert name in run(f"models get {name}")
    assert "is not a model that a job of this project made" in run(
        f"models download {first.model}", code=1
    )
    assert answer(f"models delete {name}")["deleted"] is True
    assert name not in run("models list")


def raw(server: Served, path: str) -> str:
    headers = {"authorization": f"Bearer {server.key}"}
    return httpx.get(server.url + path, headers=headers).text


def test_a_file_is_uploaded_checked_fetched_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)
    good, bad = Path("rows.jsonl"), Path("bad.jsonl")
    good.write_text((chat() + "\n") * 12)
    bad.write_text((chat() + "\n") * 12 + "{}\n")
    made = answer(f"files upload {good}")
    assert made["status"] == "processed"
    said = run(f"files upload {bad}", code=1)
    (broken,) = set(re.findall(r"file-\w+", said))
    assert "line 13" in run(f"files report {broken}")
    assert answer(f"files report {made['id']}")["rows"] == 12
    assert [each["id"] for each in answer("files list --limit 1")["data"]] == [broken]
    assert f"sha256   {made['sha256']}" in run(f"files get {made['id']}")
    run(f"files download {made['id']}")  # it is here already
    assert "another file" in run(f"files download {made['id']} --into bad.jsonl", code=1)
    assert run(f"files download {made['id']} --into new") == "new, 1.5 kB\n"
    assert Path("new").read_bytes() == good.read_bytes()
    assert run(f"files delete {made['id']}") == f"{made['id']} deleted\n"
    assert made["id"] not in run("files list")


def test_who_i_am_is_the_service_and_the_project(server: Served) -> None:
    said = run("whoami")
    assert f"{server.url}/v1/" in said
    assert "default" in said
    assert answer("whoami")["name"] == "default"


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """What runs tests in the background has SIGINT ignored, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_come_back(server: Served) -> None:
    job = create_job(server.client)
    with subprocess.Popen(
        [sys.executable, "-m", "tunery.cli", "status", job.id],
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout
        assert following.stdout.readline().startswith("queued")
        following.send_signal(signal.SIGINT)
        said, _ = following.communicate(timeout=60)
    assert f"The job goes on. Come back to it: tunery status {job.id}" in said
    assert following.returncode == 130
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def test_an_agent_has_a_tool_for_each_verb_and_is_told_what_goes_wrong(
    server: Served, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((chat() + "\n") * 12)
    job = create_job(server.client, upload(server.client).id)
    started = StdioServerParameters(
        command=sys.executable,
        args=["-m", "tunery.cli", "mcp"],
        env={"TUNERY_URL": server.url, "TUNERY_KEY": server.key},
    )

    async def talk() -> None:
        async with Agent(stdio_client(started)) as agent:
            tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
            assert set(tools) == {verb.__name__ for verb in (*LOOKS, *CHANGES, *ENDS)}
            assert all(tool.description for tool in tools.values())
            hints = {name for name, t in tools.items() if t.annotations.destructive_hint}  # type: ignore[union-attr]
            assert hints == {verb.__name__ for verb in ENDS}
            file = await call(agent, "upload_file", path=str(rows))
            assert file["sha256"]
            made = await call(agent, "create_job", model=job.model, training_file=file["id"])
            assert (await call(agent, "cancel_job", job_id=made["id"]))["status"] == "cancelled"
            listed = await call(agent, "list_jobs", status="queued")
            assert [each["id"] for each in listed["data"]] == [job.id]
            refused = await agent.call_tool("get_job", {"job_id": "ftjob-x"})
            assert refused.is_error
            assert "No fine-tuning job 'ftjob-x'" in refused.content[0].text  # type: ignore[union-attr]
            place = {"job_id": job.id, "into": str(tmp_path / "model")}
            refused = await agent.call_tool("download_job", place)
            assert "is queued and has no model" in refused.content[0].text  # type: ignore[union-attr]
            fetched = await call(agent, "download_file", file_id=file["id"], into=f"{rows}.copy")
            assert fetched["id"] == file["id"]
            refused = await agent.call_tool("upload_file", {"path": str(tmp_path / "none")})
            assert "none" in refused.content[0].text  # type: ignore[union-attr]

    anyio.run(talk)
    assert Path(f"{rows}.copy").read_bytes() == rows.read_bytes()


async def call(agent: Agent, tool: str, **arguments: object) -> Any:
    result = await agent.call_tool(tool, dict(arguments))
    assert not result.is_error, result.content
    return result.structured_content
