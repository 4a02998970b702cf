"""Models are asked from a terminal, against a real API and a worker that is told what to say."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from api.db.session import Database
from tests.answering_worker import AnsweringWorker, says
from tests.conftest import BASE, Served
from tests.factories import another_base, create_job, end_by_hand, run_by_hand
from tunery.cli.main import app
from tunery.completions import CompletionLease, CompletionPart
from tunery.states import AttemptEnd

SECONDS = 60


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_URL", server.url)
    monkeypatch.setenv("TUNERY_KEY", server.key)


def run(*words: str, piped: str | None = None, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["chat", *words], input=piped)
    assert done.exit_code == code, done.output
    return done.output


def repeat(lease: CompletionLease) -> list[CompletionPart]:
    """The model's name, and what it was asked."""
    assert lease.prompt.type == "chat"
    asked = " | ".join(str(each["content"]) for each in lease.prompt.messages)
    return says("tuned " if lease.adapter else "base ", f"{asked}\x1b[31m")


def test_a_model_is_asked_once_alone_or_beside_its_base_or_another(
    server: Served, db: Database
) -> None:
    job = create_job(server.client)
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)
    tuned = server.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or ""
    with AnsweringWorker(server, repeat) as worker:
        said = run(tuned, "Who?", "--temperature", "0", "--max-tokens", "9", "--seed", "3")
        assert said == "tuned Who?\x1b[31m\n"  # a pipe has all of it
        sampling = worker.leases[0].sampling
        assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0, 9, 3)
        both = run(tuned, "--vs", "--system", "Be brief.", piped="Who?\n")
        assert both == (
            f"{tuned}:\ntuned Be brief. | Who?\x1b[31m\n\n{BASE}:\nbase Be brief. | Who?\x1b[31m\n"
        )
        answer = json.loads(run(tuned, "Who?", "--json"))
        assert answer["object"] == "chat.completion"
        found = json.loads(run(tuned, "Who?", "--vs", another_base(db), "--json"))
        assert [each["model"] for each in found["data"]] == [tuned, "another"]
    assert "is a base model itself" in run(BASE, "Who?", "--vs", code=1)
    assert "there is no question" in run(BASE, piped=" ", code=1)
    assert "No model 'nobody'" in run("nobody", "Who?", code=1)


class Terminal:
    """The command in a terminal of its own, which is narrow."""

    def __init__(self, *words: str) -> None:
        self.end, inner = pty.openpty()
        # A shell has its background jobs ignore Ctrl-C, and theirs.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tunery.cli", "chat", *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        signal.signal(signal.SIGINT, before)
        os.close(inner)
        self.seen = ""

    def type(self, line: str) -> None:
        os.write(self.end, f"{line}\n".encode())

    def interrupt(self) -> None:
        self.child.send_signal(signal.SIGINT)

    def end_of_child(self) -> int:
        """Its exit status after Ctrl-C. Python may not hear it between a prompt and its reading, so
        it is sent again.
        """
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            self.interrupt()
            with suppress(subprocess.TimeoutExpired):
                return self.child.wait(10)
        raise AssertionError("the chat goes on")

    def shows(self, text: str) -> None:
        """From where the last look ended."""
        while text not in self.seen:
            assert select.select([self.end], [], [], SECONDS)[0], self.seen
            self.seen += os.read(self.end, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal(BASE)
    yield opened
    opened.child.kill()
    opened.child.wait()
    os.close(opened.end)


def test_a_conversation_goes_on_until_it_is_reset_and_ctrl_c_ends_an_answer_then_the_chat(
    server: Served, terminal: Terminal
) -> None:
    def answer(lease: CompletionLease) -> list[CompletionPart]:
        assert lease.prompt.type == "chat"
        *_, asked = lease.prompt.messages
        return says(*"abcd" * 2000) if asked["content"] == "long" else says("\x1b[31mred")

    with AnsweringWorker(server, answer, pause=0.02) as worker:
        terminal.shows("/quit ends")
        terminal.type("short")
        terminal.shows("\n[31mred")
        terminal.type("/system Be brief.")
        terminal.type("long")
        terminal.shows("abcd")
        terminal.interrupt()
        terminal.shows("> ")
        until = time.monotonic() + SECONDS
        while not worker.lost:
            assert time.monotonic() < until
            time.sleep(0.02)
        told = [lease.prompt.messages for lease in worker.leases if lease.prompt.type == "chat"]
        assert [each["role"] for each in told[1]] == ["system", "user", "assistant", "user"]
        terminal.type("/reset")
        terminal.type("short")
        terminal.shows("\n[31mred")
        assert worker.leases[-1].prompt.type == "chat"
        assert len(worker.leases[-1].prompt.messages) == 2
        terminal.shows("> ")
    assert terminal.end_of_child() == 130
