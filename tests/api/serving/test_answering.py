"""How an answer gets from a worker to the client that waits for it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from api.db.session import Database
from api.http import awaited
from api.janitor import Janitor
from api.serving import completions
from api.settings import Settings
from api.storage.signing import lease_secret
from api.tables import Completion
from tests.answering_worker import AnsweringWorker, claim_of, greet, says, wait_until
from tests.api.metrics.test_metrics import scrape
from tests.asking import ask_all, asking, can_ask
from tests.conftest import BASE, Served
from tests.factories import another_base
from tunery.completions import CompletionLease, CompletionPart, Piece, Refusal
from tunery.errors import LeaseLost
from worker.client import ApiRefused, Client

__all__ = ["can_ask"]


def open_rows(db: Database) -> int:
    with db.as_control() as tx:
        return tx.query(Completion).count()


class Counts:
    """What the metrics count from here on: those of a process go on from test to test."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.before = scrape(server)

    def more(self, name: str, *labels: str) -> float:
        return scrape(self.server)[name][labels] - self.before.get(name, {}).get(labels, 0)


def test_an_answer_comes_in_parts_and_leaves_nothing_behind(server: Served, db: Database) -> None:
    counts = Counts(server)
    with AnsweringWorker(server) as worker:
        with asking(server.http(), text="Who?") as texts:
            assert list(texts) == ["Hello", " there", ".", ""]
        (lease,) = worker.leases
    assert lease.prompt.type == "chat"
    assert lease.prompt.messages == [{"role": "user", "content": "Who?"}]
    assert (lease.base_model.id, lease.adapter, lease.sampling.max_tokens) == (BASE, None, 100)
    wait_until(lambda: open_rows(db) == 0)
    assert counts.more("ft_completions_total", "answered") == 1
    assert counts.more("ft_completion_tokens_total", "prompt") == 7
    assert counts.more("ft_completion_tokens_total", "completion") == 3
    assert counts.more("ft_completion_first_part_seconds_count") == 1
    assert scrape(server)["ft_completions_open"][()] == 0
    used = server.http().get("/v1/project").json()["answered"]
    assert used == {"answers": 1, "prompt_tokens": 7, "completion_tokens": 3}


def test_a_worker_at_one_server_answers_a_client_at_another(
    serve_with: Callable[..., Served],
) -> None:
    near, far = serve_with(), serve_with()
    long = "ä€🐄" * 9_000  # more than a NOTIFY takes
    tools = [{"z": 1, "a": {"c": 2, "b": 3}}]
    with AnsweringWorker(far, lambda _: says(long, " and", " more")) as worker:
        assert ask_all(near.http(), tools=tools) == f"{long} and more"
    prompt = worker.leases[0].prompt
    assert prompt.type == "chat"
    assert list(prompt.tools[0]) == ["z", "a"]  # type: ignore[index]


def test_a_client_that_leaves_frees_its_place_and_the_worker_drops_the_answer(
    server: Served, db: Database
) -> None:
    counts = Counts(server)
    with AnsweringWorker(server, lambda _: says(*"abc" * 100), pause=0.02) as worker:
        with asking(server.http()) as texts:
            next(texts)
        wait_until(lambda: len(worker.lost) == 1)
    wait_until(lambda: open_rows(db) == 0)
    assert counts.more("ft_completions_total", "abandoned") == 1


def test_what_no_worker_takes_is_refused_in_words_and_may_be_asked_again(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(answer_wait_seconds=0.3)
    counts = Counts(server)
    refused = server.http().post("/v1/ask", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_worker_free")
    assert "no worker is connected" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "10"
    with AnsweringWorker(server, warm_base=another_base(db), only_warm=True):
        operator = server.http(server.admin_key)
        wait_until(lambda: bool(operator.get("/v1/admin/workers").json()["data"]))
        refused = server.http().post("/v1/ask", json={})
    assert "the 1 workers that are there train other models" in refused.json()["error"]["message"]
    assert counts.more("ft_completions_total", "timed_out") == 2


def test_a_project_waits_for_so_many_answers_and_no_more(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(answers_at_once=1, answer_wait_seconds=20)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(ask_all, server.http())
        wait_until(lambda: open_rows(db) == 1)
        refused = server.http().post("/v1/ask", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        with AnsweringWorker(server):
            assert waiting.result() == "Hello there."
            wait_until(lambda: open_rows(db) == 0)
            assert ask_all(server.http()) == "Hello there."


def test_a_refusal_of_the_worker_is_the_clients(server: Served) -> None:
    why = Refusal(code="context_length_exceeded", message="It is too long.", param="messages")

    def refuse(_: CompletionLease) -> list[CompletionPart]:
        return [CompletionPart(number=0), CompletionPart(number=1, refusal=why)]

    with AnsweringWorker(server, refuse):
        refused = server.http().post("/v1/ask", json={})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "messages"


def test_what_a_worker_gives_back_another_answers(server: Served) -> None:
    def give_back(_: CompletionLease) -> list[CompletionPart]:
        return [CompletionPart(number=0, released=True)]

    with AnsweringWorker(server, give_back, name="w1") as first, ThreadPoolExecutor() as threads:
        waiting = threads.submit(ask_all, server.http())
        wait_until(lambda: len(first.leases) == 1)
        with AnsweringWorker(server, name="w2") as second:
            assert waiting.result() == "Hello there."
    assert (first.leases[0].token, second.leases[0].token) == (1, 2)
    assert len(first.leases) == 1


def test_a_silent_worker_loses_the_answer_and_one_that_had_begun_ends_it(
    server: Served, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "LEASE_SECONDS", 0.5)
    begin = iter([[], [CompletionPart(number=0, pieces=[Piece(text="I")])]])

    def fall_silent(lease: CompletionLease) -> Iterator[CompletionPart]:
        yield from next(begin)
        wait_until(lambda: is_lost(db, lease))
        yield CompletionPart(number=1)

    with AnsweringWorker(server, fall_silent) as worker:
        assert ask_all(server.http()) == "I<answer_lost>"
        wait_until(lambda: len(worker.lost) == 2)
    assert [lease.token for lease in worker.leases] == [1, 2]


def is_lost(db: Database, lease: CompletionLease) -> bool:
    with db.as_control() as tx:
        row = tx.get(Completion, lease.id)
        return row is None or row.worker is None or row.token != lease.token


def test_empty_parts_renew_the_lease_and_one_sent_twice_is_taken_once(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "LEASE_SECONDS", 3)

    def slowly(_: CompletionLease) -> Iterator[CompletionPart]:
        for number in range(4):
            yield CompletionPart(number=number)
            time.sleep(1)
        said = CompletionPart(number=4, pieces=[Piece(text="At last")])
        yield said
        yield said
        yield says()[0].model_copy(update={"number": 5})

    with AnsweringWorker(server, slowly):
        assert ask_all(server.http()) == "At last"


def test_a_part_that_comes_before_what_another_server_passes_on_waits_for_it() -> None:
    all_ = awaited.AllAwaited()
    here = all_.begin("cmpl-1")
    first, second, last = says("a", "b")
    assert all_.take("cmpl-1", 1, second, 10)
    assert not here.parts
    for word in awaited.words_of("cmpl-1", 1, first):
        all_.hear(word)
    assert all_.take("cmpl-1", 1, last, 10)
    assert [here.first().number for _ in range(3)] == [0, 1, 2]
    assert (here.waiting_bytes, here.lost_at) == (0, float("inf"))


def test_a_part_that_is_missing_ends_the_answer(server: Served) -> None:
    def skip(_: CompletionLease) -> list[CompletionPart]:
        parts = says("a", "b", "c")
        return [parts[0], *parts[2:]]

    with AnsweringWorker(server, skip):
        assert ask_all(server.http()) == "a<answer_lost>"


def test_projects_take_turns_and_what_is_warm_comes_first(db: Database, worker: Client) -> None:
    other = another_base(db)
    with db.as_control() as tx:
        tx.execute(text("INSERT INTO project (id, name) VALUES ('proj_b', 'b')"))
        for number, (project, base) in enumerate(
            [("default", other), ("default", BASE), ("default", BASE), ("proj_b", other)]
        ):
            tx.execute(
                text("""
                    INSERT INTO completion (id, project_id, server, base, double_quant, prompt,
                        sampling, created_at, free_since)
                    SELECT :id, coalesce((SELECT id FROM project WHERE id = :project),
                            (SELECT id FROM project WHERE name = 'default')),
                        'nobody', :base, true, '{"type": "text", "text": "x"}', '{}',
                        now() - make_interval(secs => 60 - :number), now() - interval '9 s'
                """),
                {"id": f"cmpl-{number}", "project": project, "base": base, "number": number},
            )
    order = []
    while lease := worker.claim_completion(claim_of(), wait=0):
        order.append(lease.id)
    assert order == ["cmpl-1", "cmpl-3", "cmpl-2", "cmpl-0"]


def test_a_precision_that_is_not_in_memory_is_not_warm(db: Database, worker: Client) -> None:
    with db.as_control() as tx:
        tx.execute(
            text("""
                INSERT INTO completion
                    (id, project_id, server, base, quantization, double_quant, prompt, sampling)
                SELECT 'cmpl-1', id, 'nobody', :base, 'nf4', false, '{"type": "text"}', '{}'
                FROM project WHERE name = 'default'
            """),
            {"base": BASE},
        )
    for precision in ({}, {"warm_quantization": "nf4"}):
        assert not worker.claim_completion(claim_of(only_warm=True, **precision), wait=0)
    alike = claim_of(only_warm=True, warm_quantization="nf4", warm_double_quant=False)
    assert worker.claim_completion(alike, wait=0)


def test_a_stale_or_forged_claim_adds_nothing(server: Served, worker: Client) -> None:
    answering = AnsweringWorker(server, lambda _: says("a", "b"), pause=0.3)
    with answering, asking(server.http()) as texts:
        next(texts)
        (lease,) = answering.leases
        own = server.settings.secret.get_secret_value()
        stale = lease.model_copy(update={"secret": lease_secret(own, lease.id, 0)})
        with pytest.raises(LeaseLost):
            worker.add_part(stale, CompletionPart(number=1))
        forged = lease.model_copy(update={"secret": f"{lease.secret[:-1]}-"})
        with pytest.raises(ApiRefused, match="signature"):
            worker.add_part(forged, CompletionPart(number=1))
        assert "".join(texts) == "b"


def test_a_client_that_reads_nothing_costs_a_bounded_amount_of_memory(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaited, "MOST_WAITING_BYTES", 1_000_000)
    chunk = "x" * 50_000
    worker = AnsweringWorker(server, lambda _: says(*[chunk] * 400))
    with worker, asking(server.http()):
        wait_until(lambda: len(worker.lost) == 1)


def test_a_server_that_ends_goes_on_with_what_it_has_begun_and_begins_nothing(
    server: Served,
) -> None:
    worker = AnsweringWorker(server, lambda _: says(*"abcd"), pause=0.2)
    with worker, asking(server.http()) as texts:
        next(texts)
        server.http().post("/v1/end")
        refused = server.http().post("/v1/ask", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "answer_lost")
        assert "".join(texts) == "bcd"


def test_the_janitor_forgets_what_a_dead_server_has_left(settings: Settings, db: Database) -> None:
    with db.as_control() as tx:
        tx.execute(
            text("""
                INSERT INTO completion
                    (id, project_id, server, base, double_quant, prompt, sampling, seen_at)
                SELECT 'cmpl-1', id, 'nobody', 'x', true, '{}', '{}', now() - interval '61 s'
                FROM project WHERE name = 'default'
            """)
        )
    janitor = Janitor(settings)
    janitor.forget_completions()
    janitor.db.close()
    assert open_rows(db) == 0


def test_nothing_of_what_is_asked_or_said_is_in_the_log(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with AnsweringWorker(server, greet):
        ask_all(server.http(), text="A secret")
    assert "A secret" not in caplog.text
    assert "Hello" not in caplog.text
    assert "/v1/ask" in caplog.text
