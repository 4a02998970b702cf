"""Two API processes behind a real nginx, set up as `deploy/nginx/tunery.conf` says: `make
replicas`.

What goes to which process is nginx's round robin: each request to the other one than the last.
"""

import hashlib
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from tests.answering_worker import AnsweringWorker, says
from tests.conftest import BASE, ROOT, Migrated, Served, fresh_database, settings_for
from tests.factories import create_job, data_set, upload
from tests.stores import Stores
from tunery.cli.embedded import free_port
from tunery.completions import CompletionLease, CompletionPart

CONF = ROOT / "deploy" / "nginx" / "tunery.conf"
OWN = {"x-tunery-console": "1"}
LIMIT = 600  # requests a minute


class Replicas(Served):
    """The service behind the proxy, which says of each answer whose it is; and its processes."""

    def __init__(
        self, settings: Settings, keys: Migrated, url: str, stack: ExitStack, ports: list[int]
    ) -> None:
        super().__init__(settings, keys, url, stack)
        self.ports = ports

    def at(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[number]}"


def by(answer: httpx.Response) -> str:
    return answer.headers["x-served-by"]


@contextmanager
def running(words: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(words, env=env, cwd=ROOT, stdout=said, stderr=said)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def api(settings: Settings, port: int, log: Path) -> Any:
    env = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TUNERY_SECRET": settings.secret.get_secret_value(),
        "TUNERY_STORAGE": str(settings.storage),
        "TUNERY_REQUESTS_PER_MINUTE": str(settings.requests_per_minute),
        "HF_HUB_OFFLINE": "1",
    }
    return running([sys.executable, "-m", "api", "--port", str(port)], log, env)


def nginx(folder: Path, port: int, ports: list[int]) -> Any:
    """Of the file in deploy/, with other ports, and with whose answer each one is."""
    text = CONF.read_text().replace("listen 8000;", f"listen 127.0.0.1:{port};")
    for usual, own in zip(("8001", "8002"), map(str, ports), strict=True):
        assert f":{usual};" in text
        text = text.replace(f":{usual};", f":{own};")
    text = text.replace(
        "location / {", "location / { add_header x-served-by $upstream_addr always;"
    )
    places = "".join(
        f"{name}_temp_path {folder};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/errors;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{text}\n}}\n"
    )
    program = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin")
    assert program, "Install nginx: apt-get install nginx-light"
    words = [program, "-e", str(folder / "errors"), "-p", str(folder)]
    return running([*words, "-c", str(folder / "nginx.conf")], folder / "nginx.log")


@pytest.fixture(scope="module")
def served(
    stores: Stores, migrated: Migrated, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    with fresh_database(stores, migrated.name) as database, ExitStack() as stack:
        settings = settings_for(database, stores, folder).model_copy(
            update={"requests_per_minute": LIMIT}
        )
        ports, port = [free_port(), free_port()], free_port()
        for one in ports:
            stack.enter_context(api(settings, one, folder / f"{one}.log"))
        stack.enter_context(nginx(folder, port, ports))
        url = f"http://127.0.0.1:{port}"
        for place in (*(f"http://127.0.0.1:{one}" for one in ports), url):
            until(partial(answers, f"{place}/readyz", 200))
        yield Replicas(settings, migrated, url, stack, ports)


def answers(url: str, status: int, headers: dict[str, str] | None = None) -> bool:
    return httpx.get(url, headers=headers, timeout=60).status_code == status


def until(what: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


def say(words: str) -> None:
    sys.stdout.write(f"\n  {words} ")


def test_parts_of_an_upload_go_to_both_and_make_the_file_that_was_sent(served: Replicas) -> None:
    http = served.http()
    content = data_set(4_000)
    size = len(content) // 12 + 1
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    asked = {"purpose": "fine-tune", "filename": "a.jsonl", "bytes": len(content)}
    made = http.post("/v1/uploads", json=asked | {"mime_type": "application/jsonl"}).json()
    path = f"/v1/uploads/{made['id']}"

    def send(part: bytes) -> tuple[str, str]:
        answer = http.post(f"{path}/parts", files={"data": part})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"], by(answer)

    with ThreadPoolExecutor(4) as threads:
        sent = list(threads.map(send, parts))
    places = Counter(place for _, place in sent)
    assert len(places) == 2, places
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    done = http.post(f"{path}/complete", json={"part_ids": [id_ for id_, _ in sent], "md5": digest})
    assert done.status_code == 200, done.text
    back = http.get(f"/v1/files/{done.json()['file']['id']}/content")
    assert back.content == content
    say(f"{len(parts)} parts, {sorted(places.values())} to each process: the same bytes came back")


def test_a_job_s_stream_has_what_happens_at_the_other_process(served: Replicas) -> None:
    job = create_job(served.client)
    heard: list[tuple[str, float]] = []
    opened, places = threading.Semaphore(0), []

    def follow(_: int) -> None:
        path = f"/v1/fine_tuning/jobs/{job.id}/stream"
        with served.http().stream("GET", path) as answer:
            places.append(by(answer))
            opened.release()
            for line in answer.iter_lines():
                if "cancelled" in line.lower():
                    heard.append((by(answer), time.monotonic()))
                    return

    with ThreadPoolExecutor(20) as threads:
        following = [threads.submit(follow, number) for number in range(20)]
        for _ in following:
            assert opened.acquire(timeout=60)
        time.sleep(0.5)
        began = time.monotonic()
        at = by(served.http().post(f"/v1/fine_tuning/jobs/{job.id}/cancel"))
        for one in following:
            one.result(timeout=60)
    assert sorted(Counter(places).values()) == [10, 10]
    late = [moment - began for place, moment in heard if place != at]
    assert len(late) == 10
    assert max(late) < 2
    say(
        f"20 streams, half at each process: what one was asked was heard from the other after "
        f"{1000 * statistics.median(late):.0f} ms, at most {1000 * max(late):.0f}"
    )


def test_an_answer_streams_from_whichever_process_the_worker_tells(served: Replicas) -> None:

    def slowly(_: CompletionLease) -> list[CompletionPart]:
        return says(*(f"{number} " for number in range(8)))

    first: list[float] = []
    with AnsweringWorker(served, slowly, pause=0.25):
        for _ in range(4):
            began, moments, text = time.monotonic(), [], ""
            asked = served.client.chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "Count"}], stream=True
            )
            for chunk in asked:
                if chunk.choices and (said := chunk.choices[0].delta.content):
                    moments.append(time.monotonic())
                    text += said
            assert text == "0 1 2 3 4 5 6 7 "
            # Not held back, and not sent all at once at the end.
            assert moments[-1] - moments[0] > 1
            first.append(moments[0] - began)
    say(f"4 answers of 8 words came as they were said; the first word after {max(first):.2f} s")


def test_a_session_is_known_to_both_and_ends_at_both(served: Replicas) -> None:
    browser = httpx.Client(base_url=served.url, headers=OWN, timeout=60)
    served.stack.enter_context(browser)
    assert browser.post("/ui/session", json={"key": served.key}).status_code == 200
    found = [browser.get("/v1/me") for _ in range(6)]
    assert {answer.status_code for answer in found} == {200}
    assert len({by(answer) for answer in found}) == 2
    cookie = {"cookie": f"tunery_session={browser.cookies['tunery_session']}"}
    began = time.monotonic()
    assert browser.delete("/ui/session").status_code == 204
    for number in (0, 1):
        until(partial(answers, f"{served.at(number)}/v1/me", 401, cookie))
    took = time.monotonic() - began
    assert took < 4
    say(f"a session was good at both processes, and at neither {took:.1f} s after it was ended")


def test_the_same_create_makes_one_job_whichever_process_it_comes_to(served: Replicas) -> None:
    file_id = upload(served.client).id
    asked = {"model": BASE, "training_file": file_id}
    headers = {"idempotency-key": secrets.token_hex(8)}
    http = served.http()

    def create(_: int) -> httpx.Response:
        return http.post("/v1/fine_tuning/jobs", json=asked, headers=headers)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(create, range(8)))
    good = [answer for answer in found if answer.status_code == 200]
    assert {answer.status_code for answer in found} <= {200, 409}
    assert len({answer.json()["id"] for answer in good}) == 1
    assert len({by(answer) for answer in found}) == 2
    jobs = http.get("/v1/fine_tuning/jobs").json()["data"]
    assert len([job for job in jobs if job["training_file"] == file_id]) == 1
    say("8 times the same create at both processes at once made 1 job")


def test_both_processes_keep_one_limit_of_requests_together(served: Replicas) -> None:
    left = "x-ratelimit-remaining-requests"
    while int(served.http().get("/v1/me").headers[left]) < LIMIT - 10:
        time.sleep(2)  # of the tests before
    seconds, took = 15.0, Counter[int]()
    end = time.monotonic() + seconds

    def ask(_: int) -> Counter[int]:
        found = Counter[int]()
        http = served.http()
        while time.monotonic() < end:
            found[http.get("/v1/me").status_code] += 1
            time.sleep(0.02)
        return found

    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(ask, range(8)):
            took += found
    fair = LIMIT + LIMIT / 60 * seconds
    say(f"of {took.total()} requests in {seconds:.0f} s {took[200]} were let in, of {fair:.0f}")
    assert took.keys() == {200, 429}
    # What one second lets in at the other process before it is told.
    assert took[200] <= fair * 1.15
    assert took[200] >= fair * 0.9
