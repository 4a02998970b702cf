"""Models are asked in the browser, side by side."""

import json
import threading
import time
from collections.abc import Callable, Iterable

from playwright.sync_api import expect

from api.admin import create_key
from api.db.session import Database
from tests.answering_worker import AnsweringWorker, says
from tests.conftest import BASE, Served
from tests.console.conftest import Console
from tests.console.phone import require_accessible_on_a_phone
from tests.factories import another_base, chat, create_job, end_by_hand, run_by_hand, upload
from tunery.completions import (
    ChoiceEnd,
    CompletionLease,
    CompletionPart,
    Piece,
    ToolCall,
    Usage,
)
from tunery.states import AttemptEnd

HOSTILE = "<script>alert(1)</script> \u202eevil\u202c"


def test_two_models_answer_the_same_question_side_by_side_as_they_write(
    server: Served, console: Console, db: Database
) -> None:
    other = another_base(db)
    go_on = threading.Event()

    def speak(lease: CompletionLease) -> Iterable[CompletionPart]:
        first, second, *rest = says(f"{lease.base_model.id}", f" said {HOSTILE}", "!")
        yield first
        go_on.wait(20)
        yield from (second, *rest)

    page = console.page
    console.go(f"/playground?m={BASE}&m={other}&temperature=0")
    one, two = AnsweringWorker(server, speak), AnsweringWorker(server, speak, name="w2")
    with one, two:
        page.get_by_label("Your question").fill(f"Who? {HOSTILE}")
        page.keyboard.press("Enter")
        answers = [page.get_by_role("region", name=f"Answer of {name}") for name in (BASE, other)]
        for answer, name in zip(answers, (BASE, other), strict=True):
            expect(answer.locator("p.said")).to_have_text(name)
        console.shows("Answering …")
        go_on.set()
        for answer in answers:
            expect(answer).to_contain_text("7 tokens read, 3 written")
            expect(answer).to_contain_text("first word after")
            expect(answer.locator("p.said")).to_contain_text("alert(1)")
        console.shows("All have ended.")
        page.get_by_label("Your question").fill("And then?")
        page.get_by_role("button", name="Ask", exact=True).click()
        for answer in answers:
            expect(answer.nth(1)).to_contain_text("tokens read")
        require_accessible_on_a_phone(console)
    asked = [*one.leases, *two.leases]
    told = [lease.prompt.messages for lease in asked if lease.prompt.type == "chat"]
    assert sorted(len(messages) for messages in told) == [1, 1, 3, 3]
    (own,) = (each for each in told if len(each) == 3 and BASE in each[1]["content"])
    assert [each["role"] for each in own] == ["user", "assistant", "user"]
    assert {lease.sampling.temperature for lease in asked} == {0}
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_model_of_texts_goes_on_with_a_text_and_the_request_is_there_as_a_program(
    server: Served, console: Console
) -> None:
    page = console.page
    console.go("/playground")
    program = page.get_by_label("This request in Python")
    expect(program).to_contain_text("client.chat.completions.create(")
    page.get_by_label("Ask as").select_option("text")
    page.get_by_label("Stop texts").fill("\\n\nend")
    page.get_by_label("A text to go on with").fill("Once")
    expect(program).to_contain_text('prompt="Once"')
    with AnsweringWorker(server) as worker:
        page.keyboard.press("Enter")
        expect(page.get_by_role("article")).to_contain_text("Hello there.")
    (lease,) = worker.leases
    assert lease.prompt.type == "text"
    assert (lease.prompt.text, lease.sampling.stop) == ("Once", ["\n", "end"])


def test_a_refusal_is_told_and_asked_again_and_a_stop_frees_the_worker(
    serve_with: Callable[..., Served], window: Callable[..., Console]
) -> None:
    server = serve_with(answer_wait_seconds=0.5)
    console = window(server.url)
    console.sign_in(server.key)
    page = console.page
    console.go("/playground")
    page.get_by_label("Your question").fill("Who?")
    page.keyboard.press("Enter")
    answer = page.get_by_role("region", name=f"Answer of {BASE}")
    expect(answer.get_by_role("alert")).to_contain_text("no worker is connected")
    console.require_accessible()
    with AnsweringWorker(server, lambda _: says(*"abc" * 100), pause=0.02) as worker:
        answer.get_by_role("button", name="Try again").click()
        expect(answer.locator("p.said")).to_contain_text("abc")
        page.get_by_role("button", name="Stop").click()
        expect(answer).to_contain_text("stopped")
        expect(answer.get_by_role("alert")).to_have_count(0)
        until = time.monotonic() + 10
        while not worker.lost:
            assert time.monotonic() < until
            time.sleep(0.02)
    page.get_by_label("Temperature").fill("3")
    answer.get_by_role("button", name="Answer anew").click()
    expect(page.locator("#temperature-hint")).to_contain_text("less than or equal to 2")


def test_a_reader_asks_a_tuned_model_beside_its_base_what_its_data_ask(
    server: Served, db: Database, window: Callable[..., Console]
) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    row = json.loads(chat("Is it warm?", "I look."))
    valid = json.dumps(row | {"tools": [weather]})
    file = upload(server.client, f"{valid}\n{chat()}".encode())
    job = create_job(server.client, validation_file=file.id)
    with db.as_control() as tx:
        run_by_hand(tx, job.id)
        end_by_hand(tx, job.id, AttemptEnd.SUCCEEDED)

    def call(_: CompletionLease) -> list[CompletionPart]:
        called = ToolCall(name="weather", arguments='{"city":"Oslo"}')
        return [
            CompletionPart(number=0, pieces=[Piece(tool_calls=[called])]),
            CompletionPart(
                number=1,
                ends=[ChoiceEnd(reason="tool_calls")],
                usage=Usage(prompt_tokens=7, completion_tokens=9),
            ),
        ]

    console = window(server.url)
    console.sign_in(create_key(db, "default", ["read"]))
    page = console.page
    console.go(f"/jobs/{job.id}/samples")
    page.get_by_role("link", name="Ask it").click()
    expect(page.get_by_label("Model 2", exact=True)).to_have_value(BASE)
    with AnsweringWorker(server, call) as worker:
        page.get_by_role("button", name="Ask row 1").click()
        for name in (tuned_of(server, job.id), BASE):
            answer = page.get_by_role("region", name=f"Answer of {name}")
            expect(answer).to_contain_text("9 written")
            expect(answer.get_by_role("group", name="Arguments of weather")).to_contain_text("Oslo")
    expect(page.get_by_role("article")).to_contain_text("Expected: I look.")
    console.require_accessible()
    asked = [lease.prompt for lease in worker.leases if lease.prompt.type == "chat"]
    assert [[each["content"] for each in prompt.messages] for prompt in asked] == [
        ["Is it warm?"]
    ] * 2
    assert all(prompt.tools for prompt in asked)


def tuned_of(server: Served, job_id: str) -> str:
    return server.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model or ""
