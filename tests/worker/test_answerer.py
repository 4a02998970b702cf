"""A worker that answers beside its jobs, with an engine that follows a script."""

from typing import IO

import pytest

from api.db.session import Database
from api.serving import completions, engine
from tests.api.serving.test_answering import open_rows
from tests.asking import ask_all, asking, can_ask
from tests.conftest import BASE, Served
from tests.factories import create_job
from tests.worker.conftest import MakeWork, Work, engine_of, retrieve, said, wait_for
from tunery.completions import CompletionPart, Piece, TokenSaid
from worker import answerer, warm_engine
from worker.answerer import together
from worker.warm_engine import Child, WarmEngine

__all__ = ["can_ask"]


@pytest.fixture(autouse=True)
def _servers_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answerer, "WAIT_SECONDS", 0.2)


def leave(worker: Work) -> None:
    worker.draining.set()
    worker.agent.leave()


def test_an_idle_worker_answers_from_its_base_and_with_an_adapter(
    server: Served, work: MakeWork, db: Database
) -> None:
    job = create_job(server.client)
    work("finish").run()
    model = retrieve(server, job).fine_tuned_model
    worker = work("answer", answer_room=2)
    assert ask_all(server.http()) == f"{BASE} 1 "
    tuned = f"{BASE} adapter_config.json adapter_model.safetensors 1 "
    for _ in range(2):
        assert ask_all(server.http(), model=model) == tuned
    assert len(list((worker.folder / "adapters").iterdir())) == 1
    wait_for(lambda: open_rows(db) == 0)
    leave(worker)


def test_answers_go_on_beside_a_training_and_their_client_may_leave(
    server: Served, work: MakeWork
) -> None:
    job = create_job(server.client)
    worker = work("answer beside", answer_room=2)
    with worker.running():
        wait_for(lambda: worker.engine.serves is not None and worker.engine.serves.held)
        assert ask_all(server.http()) == f"{BASE} 1 "
        with asking(server.http(), text="slow") as texts:
            next(texts)
        wait_for(lambda: not worker.agent.answerer.open)
        server.client.fine_tuning.jobs.cancel(job.id)
    assert retrieve(server, job).status == "cancelled"
    leave(worker)


def test_an_engine_that_dies_of_an_answer_is_started_anew_and_the_answer_given_back(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "OTHERS_SECONDS", 0)
    worker = work("answer", answer_room=2)
    refused = server.http().post("/v1/ask", json={"text": "die"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "answer_lost")
    assert ask_all(server.http()) == f"{BASE} 1 "
    leave(worker)


def test_a_job_is_not_blamed_for_what_an_answer_did_and_next_has_the_engine_for_itself(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_GIVEN_BACK", 0)
    job = create_job(server.client)
    worker = work("answer beside", answer_room=2)
    with worker.running():
        wait_for(lambda: worker.engine.serves is not None and worker.engine.serves.held)
        refused = server.http().post("/v1/ask", json={"text": "die"})
        assert refused.json()["error"]["code"] == "answer_lost"
        wait_for(lambda: any("had also answered" in message for message in said(server, job)))
        wait_for(lambda: worker.agent.answerer.paused)
        assert worker.agent.answerer.question() is None
        server.client.fine_tuning.jobs.cancel(job.id)
    (shown,) = server.http(server.admin_key).get("/v1/admin/workers").json()["data"]
    assert (shown["state"], shown["failures"]) == ("active", 0)
    leave(worker)


def test_a_job_that_never_reached_the_engine_keeps_it_from_no_answer(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_job(server.client)
    worker = work("finish", answer_room=1)
    worker.agent.alone.add(job.id)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.client, "download", disk_full)
    worker.run()
    assert "No space left" in said(server, job)[-1]
    assert not worker.agent.answerer.paused
    leave(worker)


def test_an_engine_that_cannot_be_started_for_a_moment_answers_later(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, refused = WarmEngine.launch, list[int]()

    def refuse_once(engine: WarmEngine, commands: int, reports: int, log: IO[bytes]) -> Child:
        if not refused:
            refused.append(commands)
            raise OSError(12, "Cannot allocate memory")
        return launch(engine, commands, reports, log)

    monkeypatch.setattr(WarmEngine, "launch", refuse_once)
    worker = work("answer", answer_room=1)
    assert ask_all(server.http()) == f"{BASE} 1 "
    assert refused
    leave(worker)


def test_an_answer_that_never_reached_the_engine_is_to_blame_for_nothing(work: MakeWork) -> None:
    engine = work("finish").engine
    engine.drop("cmpl-1", 1)
    assert not engine.answered_lately


def test_a_worker_that_drains_claims_nothing_and_gives_back_what_takes_too_long(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answerer, "LAST_SECONDS", 0.3)
    worker = work("answer", answer_room=2)
    with asking(server.http(), text="slow") as texts:
        next(texts)
        leave(worker)
        assert list(texts)[-1] == "<answer_lost>"


def test_a_worker_that_is_killed_in_the_midst_costs_the_answer_and_nothing_more(
    server: Served, work: MakeWork, monkeypatch: pytest.MonkeyPatch, db: Database
) -> None:
    monkeypatch.setattr(completions, "LEASE_SECONDS", 1.0)
    worker = work("answer", answer_room=2)
    with asking(server.http(), text="slow") as texts:
        next(texts)
        # Cut off: neither it nor its engine says another word.
        worker.client.http.base_url = "http://127.0.0.1:1"
        worker.agent.answerer.ended.set()
        assert list(texts)[-1] == "<answer_lost>"
    second = work("answer", answer_room=2)
    assert ask_all(server.http()) == f"{BASE} 1 "
    leave(second)
    wait_for(lambda: open_rows(db) == 0)


def test_an_idle_engine_that_is_gone_is_started_anew(server: Served, work: MakeWork) -> None:
    worker = work("answer", answer_room=1)
    wait_for(lambda: worker.engine.look() is not None)
    first = engine_of(worker)
    worker.engine.kill()
    assert ask_all(server.http()) == f"{BASE} 1 "
    assert engine_of(worker).pid != first.pid
    leave(worker)


def test_a_worker_that_only_answers_keeps_its_engines_log_short(
    work: MakeWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_engine, "LOG_LIMIT_BYTES", 1000)
    worker = work("answer", answer_room=1)
    worker.engine.log_file.write_bytes(b"x" * 5000)
    wait_for(lambda: worker.engine.log_file.stat().st_size <= 1000)
    leave(worker)


def test_parts_that_belong_together_are_sent_together() -> None:
    token = TokenSaid(id=1, text="a", bytes=[97], logprob=-0.5)
    parts = [
        CompletionPart(number=n, pieces=[Piece(choice=n % 2, text=str(n), tokens=[token])])
        for n in range(4)
    ]
    (whole,) = together(parts)
    assert [(piece.choice, piece.text) for piece in whole.pieces] == [(0, "02"), (1, "13")]
    assert [len(piece.tokens) for piece in whole.pieces] == [2, 2]
    large = CompletionPart(number=0, pieces=[Piece(text="x" * 200_000)])
    assert len(together([large, large])) == 2
