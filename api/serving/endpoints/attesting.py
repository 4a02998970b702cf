"""Endpoints are looked at, given adapters, and asked for the proof of each model that they have."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from anyio import to_thread
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from api.http.dependencies import Server
from api.models import tuned
from api.serving.endpoints import adapters, endpoints, upstream
from api.serving.endpoints.endpoints import Place
from api.serving.weights import Weights
from api.storage.storage import Storage
from api.tables import Artifact
from api.tenants.places import RUN, in_thread
from api.webhooks.outbound import trust
from tunery.errors import TuneryError
from tunery.facts import FileFacts
from tunery.proof.kept import PROOF, Proof
from tunery.proof.server import ServerAsked, Unreachable
from tunery.proof.verdict import Finding, Heard, judge

log = logging.getLogger(__name__)

LOOK_SECONDS, PROBE_SECONDS = 1.0, 5.0
ADAPTER_SECONDS, ATTEST_SECONDS = 120.0, 300.0

T = TypeVar("T")


class Endpoints:
    """What is done with them in this API process."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.memory = server.upstreams

    @property
    def client(self) -> httpx.AsyncClient:
        """Made when it is first needed: it reads all certificates."""
        if self.memory.client is None:
            self.memory.client = upstream.new_client()
        return self.memory.client

    async def places_of(self, model: str, meant: Weights) -> list[Place]:
        """Where the model can answer, or could."""
        what = (model, meant)
        found: list[Place] | None = self.memory.recall(what)
        if found is None:
            found = await self.run(endpoints.places_of, self.server.settings, model, meant)
            if not any(place.is_open for place in found):
                self.memory.note(what, found)
        return found

    async def run(self, do: Callable[..., T], *given: Any) -> T:  # noqa: ANN401
        """In a transaction of the control role."""

        def in_tx() -> T:
            with self.server.db.as_control() as tx:
                return do(tx, *given)

        return await self.aside(in_tx)

    async def aside(self, do: Callable[..., T], *given: Any) -> T:  # noqa: ANN401
        """In a thread: at a place of the request's project, if there is a request."""
        run = RUN.get(None)
        if run is None:
            threads = self.server.worker_threads
            return await to_thread.run_sync(partial(do, *given), limiter=threads)
        return await in_thread(do, *given)

    async def watch(self, ended: asyncio.Event) -> None:
        """For as long as this server runs."""
        while not ended.is_set():
            try:
                found = await self.run(endpoints.claim_due)
                if found:
                    await self.look_at(found.id, found.url, found.trouble)
                    continue
            except (DBAPIError, PoolTimeout) as error:
                log.warning("the database is away (%s)", error)
            except TuneryError as error:
                log.warning("an endpoint cannot be looked at: %s", error.message)
            except Exception:
                log.exception("an endpoint could not be looked at; it is looked at again")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await ended.wait()

    async def look_at(self, endpoint_id: str, url: str, before: str | None) -> None:
        def key_of(tx: Session) -> str | None:
            return endpoints.key_of(self.server.settings, endpoints.get(tx, endpoint_id))

        trouble = await self.probe(url, await self.run(key_of))
        if trouble != before:
            log.warning("endpoint %s: %s", endpoint_id, trouble or "it is there")
        await self.run(endpoints.note_health, endpoint_id, trouble)
        if trouble:
            return
        for gone in await self.run(endpoints.forget_deleted, self.server.settings, endpoint_id):
            await self.unload(gone, gone.name)
        place = await self.run(endpoints.claim_attestation, self.server.settings, endpoint_id)
        if place is None:
            return
        lock = self.memory.locks[place.endpoint_id, place.model]
        if not lock.locked():  # else a request is at it
            async with lock:
                with suppress(upstream.NotTaken):
                    await self.attest(place)

    async def probe(self, url: str, key: str | None) -> str | None:
        """Why it cannot be used; None: it is there."""
        headers = upstream.bearing(key)
        try:
            answer = self.client.stream(
                "GET", f"{url}/v1/models", headers=headers, timeout=PROBE_SECONDS
            )
            async with answer as response:
                return None if response.status_code == 200 else f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return upstream.in_words(error)

    async def ready(self, place: Place) -> Place:
        """Loaded, and attested if it was not. Raises `NotTaken`."""
        async with self.memory.locks[place.endpoint_id, place.model]:
            now = await self.run(endpoints.again, self.server.settings, place)
            if now is None:
                raise upstream.NotTaken("it is no endpoint any more")
            if now.is_open:
                return await self.attest(now)
            if now.state == "verified" and not now.loaded:
                await self.load(now)
            return now

    async def attest(self, place: Place) -> Place:
        """The place with what was found. Raises `NotTaken` if it could not be asked."""
        await self.run(endpoints.put_off, place)
        artifact = await self.run(artifact_of, place)
        proof = None
        if artifact:
            proof = await self.aside(read_proof, self.server.storage, artifact)
        try:
            await self.load(place)
            async with asyncio.timeout(ATTEST_SECONDS):
                finding = await self.found(place, proof)
        except (Unreachable, upstream.NotTaken, TimeoutError) as error:
            words = str(error) or f"it did not answer in {ATTEST_SECONDS:.0f} s"
            log.warning("endpoint %s, %s: %s", place.endpoint_id, place.name, words)
            words = words.replace(place.url, "the server")  # whose address is no tenant's affair
            await self.run(endpoints.put_off, place, f"It could not be asked: {words}")
            raise upstream.NotTaken(words) from error
        await self.run(endpoints.note, place, finding)
        state = endpoints.STATES[finding.verdict]
        return replace(place, state=state, reason=finding.reason, due=False, loaded=True)

    async def found(self, place: Place, proof: Proof | None) -> Finding:
        if proof is None:
            without = Heard(silent="its training kept no proof, or it is a checkpoint")
            return judge(NO_PROOF, without)
        headers = upstream.bearing(place.key)
        async with httpx.AsyncClient(
            verify=trust(), trust_env=False, timeout=PROBE_SECONDS * 6, headers=headers
        ) as client:
            return judge(proof, await ServerAsked(client, place.url, place.name).hear(proof))

    async def load(self, place: Place) -> None:
        """Nothing to do for one that the server was started with. Raises `NotTaken`."""
        if place.folder is None or place.their_folder is None:
            return
        folder = Path(place.folder) / place.name
        files = await self.run(adapter_of, place)
        await self.aside(adapters.lay, self.server.storage, folder, files)
        for name in await self.run(endpoints.too_many, place):
            await self.unload(place, name)
        path = f"{place.their_folder}/{place.name}"
        body = {"lora_name": place.name, "lora_path": path}
        status, words = await self.tell(place, "load_lora_adapter", body)
        if status != 200 and "already" not in words:
            raise upstream.NotTaken(f"it does not load the adapter ({words})")
        await self.run(note_loaded, place)

    async def unload(self, place: Place, name: str) -> None:
        """Its files go too: they are laid again when it is loaded again."""
        try:
            await self.tell(place, "unload_lora_adapter", {"lora_name": name})
        except upstream.NotTaken as error:
            log.warning("%s is not unloaded (%s)", name, error)
        if place.folder:
            for folder in await self.run(endpoints.unread, place.folder, [name]):
                await self.aside(adapters.remove, folder)

    async def tell(self, place: Place, what: str, body: dict[str, str]) -> tuple[int, str]:
        """The status, and the beginning of what the server says. Raises `NotTaken`."""
        try:
            async with (
                asyncio.timeout(ADAPTER_SECONDS),
                self.client.stream(
                    "POST",
                    f"{place.url}/v1/{what}",
                    json=body,
                    headers=upstream.bearing(place.key),
                    timeout=ADAPTER_SECONDS,
                ) as answer,
            ):
                said = await upstream.beginning(answer)
                return answer.status_code, said.decode(errors="replace")[
                    : upstream.SHOWN_CHARACTERS
                ]
        except TimeoutError as error:
            words = f"it did not answer in {ADAPTER_SECONDS:.0f} s"
            raise upstream.NotTaken(words) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise upstream.NotTaken(upstream.in_words(error)) from error


NO_PROOF = Proof(
    base_model="", base_revision="", quantization="", computed_in="", held_out=False, rows=[]
)


def note_loaded(tx: Session, place: Place) -> None:
    endpoints.note_loaded(tx, place, loaded=True)


def artifact_of(tx: Session, place: Place) -> Artifact | None:
    """The proof. None: of a checkpoint, and of a training before there were proofs."""
    return tx.get(Artifact, (place.job_id, PROOF)) if place.step is None else None


def read_proof(storage: Storage, artifact: Artifact) -> Proof | None:
    try:
        content = adapters.proven_copy(storage, artifact.key, artifact.sha256).read_bytes()
        return Proof.model_validate_json(content)
    except (OSError, ValidationError, TuneryError) as error:
        log.warning("the proof of %s cannot be read (%s)", artifact.job_id, error)
        return None


def adapter_of(tx: Session, place: Place) -> list[tuple[str, FileFacts]]:
    return tuned.adapter_files(tx, str(place.job_id), place.step)
