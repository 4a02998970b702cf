"""The API as a worker sees it. What fails in passing is tried again for as long as the caller has
patience; every call may be repeated.
"""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from pydantic import BaseModel

from tunery import messages
from tunery.completions import CompletionClaim, CompletionLease, CompletionPart
from tunery.errors import BytesDamaged, LeaseLost, TuneryError
from tunery.evaluations import AnsweredRows
from tunery.facts import FileFacts, FileLink

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LONGEST_PAUSE_SECONDS = 5.0
NAP_SECONDS = 0.2
CONNECT_SECONDS, QUICK_SECONDS, PATIENT_SECONDS = 5.0, 10.0, 30.0
# A request that crashes the API for so long will not get through.
CRASH_SECONDS = 600.0
UNREACHABLE_SECONDS = 300.0
PART_PAUSES_SECONDS = (0.5, 5.0)


class ApiAway(TuneryError):
    """The API did not answer, or not sensibly, within the caller's patience."""


class ApiRefused(TuneryError):
    """The API answered that it will not: trying again does not help. `code` is the answer's."""


class Garbled(ApiRefused):
    """A file arrived with another content than was announced, though the API has proven it."""


class StopAsked(Exception):
    """What was being fetched is no longer wanted."""


class Client:
    """May be used from several threads. `deadline`, in monotonic seconds, ends every patience: the
    worker is to be gone by then.
    """

    def __init__(self, url: str, worker_key: str) -> None:
        timeout = httpx.Timeout(PATIENT_SECONDS, connect=CONNECT_SECONDS)
        self.http = httpx.Client(base_url=url, timeout=timeout)
        self.worker_key = worker_key
        self.deadline = float("inf")
        # Storage itself that cannot be reached is not asked for every file.
        self.direct_from = 0.0

    def claim(
        self, worker: messages.WorkerFacts, *, warm_base: str | None = None, wait: float = 0
    ) -> messages.Lease | None:
        """A job to run, or None when none is ready within `wait` seconds."""
        ask = messages.ClaimRequest(**worker.model_dump(), warm_base=warm_base)
        answer = self.call("claim", ask, self.worker_key, wait=wait)
        if why := answer.headers.get(messages.NO_JOB_BECAUSE):
            log.warning("the API gives out no job: %s", why)
        return messages.Lease.model_validate_json(answer.content) if answer.content else None

    def heartbeat(
        self,
        worker: messages.WorkerFacts,
        beats: list[messages.LeaseBeat],
        *,
        leaving: bool = False,
    ) -> messages.HeartbeatReply:
        ask = messages.HeartbeatRequest(worker=worker, leases=beats, leaving=leaving)
        answer = self.call("heartbeat", ask, self.worker_key)
        return messages.HeartbeatReply.model_validate_json(answer.content)

    def add_events(
        self, lease: messages.Lease, batch: messages.EventBatch, *, patience: float = 0
    ) -> None:
        self.call(f"jobs/{lease.job_id}/events", batch, lease.secret, patience=patience)

    def add_log(self, lease: messages.Lease, part: messages.LogPart) -> None:
        self.call(f"jobs/{lease.job_id}/log", part, lease.secret)

    def add_checkpoint(
        self, lease: messages.Lease, written: messages.CheckpointWritten, *, patience: float
    ) -> None:
        self.call(f"jobs/{lease.job_id}/checkpoints", written, lease.secret, patience=patience)

    def finish(
        self, lease: messages.Lease, ask: messages.FinishRequest, *, patience: float
    ) -> None:
        self.call(f"jobs/{lease.job_id}/finish", ask, lease.secret, patience=patience)

    def claim_completion(self, ask: CompletionClaim, *, wait: float) -> CompletionLease | None:
        """Something to answer, or None when nothing is asked within `wait` seconds."""
        answer = self.call("completions/claim", ask, self.worker_key, wait=wait)
        return CompletionLease.model_validate_json(answer.content) if answer.content else None

    def add_part(
        self, lease: CompletionLease, part: CompletionPart, *, patience: float = 0
    ) -> None:
        self.call(f"completions/{lease.id}/parts", part, lease.secret, patience=patience)

    def upload(
        self, lease: messages.Lease, path: Path, facts: FileFacts, *, patience: float
    ) -> None:
        """Sends one file; nothing if the API has it already."""
        asked = self.call(f"jobs/{lease.job_id}/uploads", facts, lease.secret, patience=patience)
        target = messages.UploadTarget.model_validate_json(asked.content)
        if target.url is None:
            return
        self.send(lambda: self.put(lease, path, facts, target), patience=patience)

    def put(
        self, lease: messages.Lease, path: Path, facts: FileFacts, target: messages.UploadTarget
    ) -> httpx.Response:
        """To storage itself if that can be reached, else to the API: its answer says what is
        wrong.
        """
        try:
            if target.direct and self.goes_direct():
                return put_to(self.http, target.direct, path)
            if target.part_bytes and self.goes_direct():
                return self.put_parts(lease, path, facts, target.part_bytes)
        except (httpx.TransportError, NotTaken) as error:
            self.note_not_direct(facts.name, error)
        url, headers = target.url or "", {"content-length": str(facts.bytes), **target.headers}
        return self.http.put(url, content=chunks(path), headers=headers)

    def put_parts(
        self, lease: messages.Lease, path: Path, facts: FileFacts, part_bytes: int
    ) -> httpx.Response:
        """Each part is known by its own SHA-256 before it is sent."""
        slices = [
            (at, min(part_bytes, facts.bytes - at)) for at in range(0, facts.bytes, part_bytes)
        ]
        digests = [digest_of(path, *each) for each in slices]
        asked = messages.PartsAsked(file=facts, parts=digests)
        answer = self.post(f"jobs/{lease.job_id}/uploads/parts", asked, lease.secret)
        if not answer.is_success:
            return answer
        targets = messages.PartTargets.model_validate_json(answer.content)
        for target, each in zip(targets.parts, slices, strict=True):
            self.put_part(target, path, *each)
        sent = messages.PartsSent(file=facts, parts=digests, upload_id=targets.upload_id)
        return self.post(f"jobs/{lease.job_id}/uploads/complete", sent, lease.secret)

    def put_part(self, target: messages.DirectTarget, path: Path, at: int, length: int) -> None:
        """Tried again: for one part that breaks off the whole file would go by way of the API."""
        for pause in PART_PAUSES_SECONDS:
            try:
                put_to(self.http, target, path, at, length)
            except (httpx.TransportError, NotTaken) as error:
                if isinstance(error, NotTaken) and error.status < 500:
                    raise
                log.warning("a part of %s is sent again: %s", path.name, type(error).__name__)
                time.sleep(pause)
            else:
                return
        put_to(self.http, target, path, at, length)

    def download(
        self,
        link: FileLink,
        to: Path,
        *,
        patience: float,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> None:
        """Fetches one file and checks its content. `stop_if_asked` is called all the while, and may
        raise. Raises `ApiRefused` if the content is another.
        """
        self.send(
            lambda: self.fetch(link, to, stop_if_asked),
            patience=patience,
            stop_if_asked=stop_if_asked,
        )

    def fetch(self, link: FileLink, to: Path, stop_if_asked: Callable[[], None]) -> httpx.Response:
        """From storage itself if that can be reached, else from the API: its answer says what is
        wrong.
        """
        if link.direct and self.goes_direct():
            try:
                response = self.fetch_from(link.direct, link, to, stop_if_asked)
                return require_taken(response)
            except (httpx.TransportError, Garbled, NotTaken) as error:
                self.note_not_direct(link.name, error)
        return self.fetch_from(link.url, link, to, stop_if_asked)

    def fetch_from(
        self, url: str, link: FileLink, to: Path, stop_if_asked: Callable[[], None]
    ) -> httpx.Response:
        digest = hashlib.sha256()
        with self.http.stream("GET", url) as response, to.open("wb") as file:
            if not response.is_success:
                response.read()
                return response
            for chunk in response.iter_bytes(CHUNK_BYTES):
                stop_if_asked()
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != link.sha256:
            raise Garbled(f"{link.name} arrived with another content than was announced.")
        return response

    def goes_direct(self) -> bool:
        return time.monotonic() >= self.direct_from

    def note_not_direct(self, name: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        log.warning("%s goes by way of the API, because storage itself fails: %s", name, why)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self.direct_from = time.monotonic() + UNREACHABLE_SECONDS

    def add_answers(self, lease: messages.Lease, given: AnsweredRows, *, patience: float) -> None:
        self.call(f"jobs/{lease.job_id}/answers", given, lease.secret, patience=patience)

    def call(
        self,
        route: str,
        body: BaseModel,
        bearer: str,
        *,
        wait: float = 0,
        patience: float = 0,
    ) -> httpx.Response:
        """`wait` seconds may the API take before it answers at all."""
        # Whoever has no patience has other things to do than to wait for an API that hangs.
        read = (PATIENT_SECONDS if patience else QUICK_SECONDS) + wait
        return self.send(
            lambda: self.post(route, body, bearer, wait=wait, read=read), patience=patience
        )

    def post(
        self,
        route: str,
        body: BaseModel,
        bearer: str,
        *,
        wait: float = 0,
        read: float = PATIENT_SECONDS,
    ) -> httpx.Response:
        return self.http.post(
            f"/worker/v1/{route}",
            content=body.model_dump_json(),
            headers={"authorization": f"Bearer {bearer}", "content-type": "application/json"},
            params={"wait": wait} if wait else None,
            timeout=httpx.Timeout(read, connect=CONNECT_SECONDS),
        )

    def send(
        self,
        request: Callable[[], httpx.Response],
        *,
        patience: float,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> httpx.Response:
        """The answer to a request, tried again while the API is away.

        Raises:
            LeaseLost: the claim is over; drop its results.
            ApiAway: no sensible answer for `patience` seconds.
            ApiRefused: any other answer that is an error.

        """
        began = time.monotonic()
        until = began + patience
        pause = 0.2
        while True:
            try:
                response = request()
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                code, trouble = refusal(response)
                crashes = response.status_code == 500 and time.monotonic() > began + CRASH_SECONDS
                if response.status_code < 500 or crashes or code == BytesDamaged.code:
                    raise ApiRefused(trouble, code=code)
            if time.monotonic() + pause > min(until, self.deadline):
                raise ApiAway(trouble)
            log.warning("the API is away (%s); trying again in %.1f s", trouble, pause)
            go_on = time.monotonic() + pause
            while time.monotonic() < min(go_on, self.deadline):
                stop_if_asked()
                time.sleep(min(pause, NAP_SECONDS))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def refusal(response: httpx.Response) -> tuple[str | None, str]:
    """The error's code and message. Raises `LeaseLost` where it says so."""
    try:
        error = response.json()["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):  # not ours: a proxy's
        return None, f"HTTP {response.status_code}"
    if code == LeaseLost.code:
        raise LeaseLost(message)
    return code, f"HTTP {response.status_code}: {message}"


class NotTaken(Exception):
    """Storage itself answered that it will not. What is wrong is for the API to say."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        said = re.search(r"<Code>(\w+)</Code>", response.text)
        super().__init__(f"HTTP {response.status_code} {said[1] if said else ''}".strip())


def put_to(
    http: httpx.Client,
    target: messages.DirectTarget,
    path: Path,
    at: int = 0,
    length: int | None = None,
) -> httpx.Response:
    """A file, or the part of it there. Raises `NotTaken`."""
    length = path.stat().st_size if length is None else length
    headers = {"content-length": str(length), **target.headers}
    return require_taken(http.put(target.url, content=chunks(path, at, length), headers=headers))


def require_taken(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise NotTaken(response)
    return response


def digest_of(path: Path, at: int, length: int) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(path, at, length):
        digest.update(chunk)
    return digest.hexdigest()


def chunks(path: Path, at: int = 0, length: int | None = None) -> Iterator[bytes]:
    left = path.stat().st_size if length is None else length
    with path.open("rb") as file:
        file.seek(at)
        while chunk := file.read(min(CHUNK_BYTES, left)):
            left -= len(chunk)
            yield chunk
