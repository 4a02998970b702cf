"""Clients of a service that is upgraded meanwhile: none of their requests may fail."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx

from tests.factories import data_set

KEPT_EVERY = 20
ROWS = 24


class Load:
    """Each kind of client is a thread. `failed` says of each failure what and why; `kept` are the
    jobs that are to be trained, the others are cancelled.
    """

    def __init__(self, url: str, key: str, model: str, file_id: str) -> None:
        self.url, self.key, self.model, self.file_id = url, key, model, file_id
        self.sent: Counter[str] = Counter()
        self.failed: list[str] = []
        self.kept: list[str] = []
        # By job: the workers that had it, in their order.
        self.trained: dict[str, list[str]] = {}
        self.over = threading.Event()
        clients = (self.create, self.read, self.upload)
        self.threads = [threading.Thread(target=self.go_on, args=(one,)) for one in clients]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def go_on(self, client: Callable[[int], None]) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            try:
                client(number)
            except (httpx.HTTPError, AssertionError) as error:
                self.failed.append(f"{client.__name__}: {type(error).__name__}: {error}")
            time.sleep(0.05)

    def ask(self, verb: str, path: str, **more: Any) -> httpx.Response:
        """On a connection of its own, as a balancer gives each request the process it chooses.
        As OpenAI's SDKs do, it asks again where it is told to come back later.
        """
        headers = {"authorization": f"Bearer {self.key}", "connection": "close"}
        for wait in (1, 2, 0):
            self.sent[f"{verb} {path.split('/')[1]}"] += 1
            url = f"{self.url}/v1{path}"
            answer = httpx.request(verb, url, headers=headers, timeout=60, **more)
            if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                break
            time.sleep(wait)
        assert answer.is_success, f"{verb} {path}: {answer.status_code} {answer.text[:300]}"
        return answer

    def create(self, number: int) -> None:
        job = self.train(epochs=1)
        shown = self.ask("GET", f"/fine_tuning/jobs/{job}").json()
        assert shown["tunery"]["training"], shown
        if number % KEPT_EVERY:
            self.ask("POST", f"/fine_tuning/jobs/{job}/cancel")
        else:
            self.kept.append(job)

    def train(self, epochs: int) -> str:
        body = {
            "model": self.model,
            "training_file": self.file_id,
            "hyperparameters": {"n_epochs": epochs, "batch_size": 2},
        }
        made: str = self.ask("POST", "/fine_tuning/jobs", json=body).json()["id"]
        return made

    def read(self, _: int) -> None:
        assert self.ask("GET", "/fine_tuning/jobs?limit=20").json()["data"]
        assert self.ask("GET", "/models").json()["data"]
        assert self.ask("GET", f"/files/{self.file_id}/content").content == data_set(ROWS)

    def upload(self, number: int) -> None:
        content = data_set(number % 7 + 10)
        form = {"files": {"file": ("a.jsonl", content)}, "data": {"purpose": "fine-tune"}}
        file_id = self.ask("POST", "/files", **form).json()["id"]
        assert self.ask("GET", f"/files/{file_id}/content").content == content
        self.ask("DELETE", f"/files/{file_id}")


class Follower:
    """Follows a job by its stream to its end, and comes back where that is cut. `seen` are ids of
    its events.
    """

    def __init__(self, load: Load, job_id: str) -> None:
        self.load, self.job_id = load, job_id
        self.seen: list[str] = []
        self.connected = 0
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        headers = {"authorization": f"Bearer {self.load.key}"}
        url = f"{self.load.url}/v1/fine_tuning/jobs/{self.job_id}/stream"
        while True:
            self.connected += 1
            try:
                with httpx.stream("GET", url, headers=headers, timeout=60) as stream:
                    if stream.status_code == 204:  # the job has ended
                        return
                    assert stream.status_code == 200, stream.status_code
                    for line in stream.iter_lines():
                        if line.startswith("id: "):
                            headers["last-event-id"] = line[4:]
                            self.seen.append(line[4:])
            except httpx.RemoteProtocolError:
                continue  # it was cut
            except (httpx.HTTPError, AssertionError) as error:
                self.load.failed.append(f"stream: {type(error).__name__}: {error}")
                return
