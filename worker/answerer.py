"""Answers beside the agent's jobs: claims what is asked, has the engine answer it, and sends on
what it says. A job goes first: what cannot be answered beside it goes back, for another worker.
"""

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tunery.completions import CompletionClaim, CompletionLease, CompletionPart, Piece
from tunery.errors import LeaseLost
from worker.adapters import Adapters
from worker.bases.bases import NotFetched
from worker.client import ApiAway, ApiRefused, Client, StopAsked
from worker.protocol import Complete
from worker.warm_engine import EngineDied

if TYPE_CHECKING:
    from worker.agent import Agent

log = logging.getLogger(__name__)

# How long one question for something to answer stays open. What the engine can answer from may
# change in that time.
WAIT_SECONDS = 5.0
LOOK_SECONDS = 1.0
AWAY_SECONDS = 1.0
# What is said in so short a time is sent together. The first of it is sent at once.
GATHER_SECONDS = 0.03
# A lease without a word for longer than some of these is over.
SILENCE_SECONDS = 4.0
# The API is tried for so long; then nobody waits for the answer any more.
PATIENCE_SECONDS = 8.0
# How long an answer that has begun may go on when the worker is to end.
LAST_SECONDS = 8.0
# Of one part; a body has a limit (`api.http.edge`).
MOST_PART_BYTES = 256 << 10


class Answerer:
    """Answers up to `room` questions at once for the worker of an agent; 0: none."""

    def __init__(self, agent: "Agent", work_dir: Path, *, room: int) -> None:
        self.agent = agent
        self.client = agent.client
        self.engine = agent.engine
        self.adapters = Adapters(work_dir / "adapters", agent.client)
        self.room = room
        # Whether the engine's present attempt is to have it for itself.
        self.paused = False
        self.last_at = float("-inf")
        # With the ids of the bases that they need.
        self.open: dict[threading.Thread, str] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, name="answerer", daemon=True)

    def start(self) -> None:
        if self.room:
            self.thread.start()

    def stop(self) -> None:
        """Returns when all answers are over or given back. An open claim is broken off with the
        process.
        """
        self.ended.set()
        for thread in list(self.open):
            thread.join()

    @property
    def is_leaving(self) -> bool:
        return self.ended.is_set() or self.agent.draining()

    @property
    def job_waits(self) -> bool:
        """Whether the agent has a job, which goes first."""
        return self.agent.at_work

    def run(self) -> None:
        """Until `stop`, also while the worker drains: the engine ends with whoever started it."""
        while not self.ended.is_set():
            try:
                ask = self.question()
                lease = self.client.claim_completion(ask, wait=WAIT_SECONDS) if ask else None
            except ApiAway as error:
                log.info("nothing is asked: %s", error)
                self.ended.wait(AWAY_SECONDS)
                continue
            except (ApiRefused, LeaseLost) as error:
                # An older API knows nothing of this, or the key is wrong: the agent says so.
                log.warning("the API gives nothing to answer: %s", error)
                self.ended.wait(WAIT_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001 - its words may be somebody's question
                # What cannot be read, or an engine for which the machine has no room just now.
                log.error("nothing is answered for a moment: %s", type(error).__name__)  # noqa: TRY400
                self.ended.wait(AWAY_SECONDS)
                continue
            if lease:
                thread = threading.Thread(target=self.attend, args=(lease,), name=lease.id)
                thread.daemon = True
                self.open[thread] = lease.base_model.id
                thread.start()
            elif ask is None:
                with self.engine.news:
                    self.engine.news.wait(LOOK_SECONDS)

    def question(self) -> CompletionClaim | None:
        """What this worker can answer now; None: nothing."""
        engine = self.engine
        if self.is_leaving or self.paused or len(self.open) >= self.room:
            return None
        if not engine.at_work:
            engine.start()
        serves = engine.serves
        if engine.look() is None or serves is None or (serves.held and not serves.base_model):
            return None
        if any(base != serves.base_model for base in list(self.open.values())):
            return None  # until that base is there
        return CompletionClaim(
            **self.agent.facts_now().model_dump(),
            warm_base=serves.base_model,
            warm_quantization=serves.quantization,
            warm_double_quant=serves.double_quant,
            only_warm=serves.held or self.job_waits,
        )

    def attend(self, lease: CompletionLease) -> None:
        """One claim of a completion, to its end."""
        sender = Sender(self.client, lease)
        try:
            self.answer(lease, sender)
        except LeaseLost:
            log.info("nobody waits for %s any more", lease.id)
        except (ApiAway, ApiRefused) as error:
            log.warning("%s is left: %s", lease.id, error)
        except (EngineDied, NotFetched, StopAsked) as error:
            log.info("%s is given back: %s", lease.id, str(error) or "a job or the end goes first")
            sender.give_back()
        except Exception as error:  # noqa: BLE001 - its words may be somebody's question
            log.error("%s is given back: %s", lease.id, type(error).__name__)  # noqa: TRY400
            sender.give_back()
        finally:
            self.engine.drop(lease.id, lease.token)
            self.last_at = time.monotonic()
            self.open.pop(threading.current_thread())
            with self.engine.news:
                self.engine.news.notify_all()

    def answer(self, lease: CompletionLease, sender: "Sender") -> None:
        if self.is_leaving:
            raise StopAsked

        def go_on() -> None:
            sender.renew()
            if self.is_leaving:
                raise StopAsked

        def go_on_without_job() -> None:
            go_on()
            if self.job_waits:
                raise StopAsked

        base = self.agent.bases.ready(lease, None, go_on_without_job)
        if lease.adapter is None:
            self.follow(lease, sender, base, None)
        else:
            with self.adapters.ready(lease.adapter, go_on) as adapter:
                self.follow(lease, sender, base, adapter)

    def follow(
        self, lease: CompletionLease, sender: "Sender", base: Path, adapter: Path | None
    ) -> None:
        """Raises `EngineDied`, `StopAsked`, and what `Client.add_part` does."""
        self.engine.complete(
            Complete(
                completion_id=lease.id,
                token=lease.token,
                base_model=lease.base_model.id,
                base_revision=lease.base_model.revision,
                base_folder=base,
                base_files=lease.base_model.files,
                cache=self.agent.cache,
                quantization=lease.quantization,
                double_quant=lease.double_quant,
                adapter=adapter,
                chat_template=lease.chat_template,
                prompt=lease.prompt,
                sampling=lease.sampling,
            )
        )
        heard, leave_by = time.monotonic(), float("inf")
        while True:
            parts = self.engine.said(lease.id, lease.token, seconds=LOOK_SECONDS)
            now = time.monotonic()
            if self.is_leaving:
                leave_by = min(leave_by, now + LAST_SECONDS)
            if parts:
                heard = now
                sender.send(parts)
                if parts[-1].is_last:
                    return
                time.sleep(max(0.0, now + GATHER_SECONDS - time.monotonic()))
            elif now > heard + self.agent.hang_seconds:
                if not self.engine.at_work:
                    self.engine.kill()
                raise EngineDied("The engine said nothing for too long.")
            sender.renew()
            if now > leave_by or (self.paused and self.engine.at_work):
                raise StopAsked


class Sender:
    """Of one lease: its parts, numbered, with what belongs together in one."""

    def __init__(self, client: Client, lease: CompletionLease) -> None:
        self.client = client
        self.lease = lease
        self.number = 0
        self.sent_at = time.monotonic()

    def send(self, parts: list[CompletionPart], *, patience: float = PATIENCE_SECONDS) -> None:
        for part in together(parts):
            numbered = part.model_copy(update={"number": self.number})
            self.client.add_part(self.lease, numbered, patience=patience)
            self.number += 1
        self.sent_at = time.monotonic()

    def renew(self) -> None:
        if time.monotonic() > self.sent_at + SILENCE_SECONDS:
            self.send([CompletionPart(number=0)])

    def give_back(self) -> None:
        try:
            self.send([CompletionPart(number=0, released=True)], patience=0)
        except (LeaseLost, ApiAway, ApiRefused) as error:
            # The lease runs out.
            log.info("%s is not given back: %s", self.lease.id, error)


def together(parts: list[CompletionPart]) -> list[CompletionPart]:
    """As few as their size allows, with one piece for each choice."""
    made: list[CompletionPart] = []
    size = MOST_PART_BYTES
    for part in parts:
        more = len(part.model_dump_json(exclude_defaults=True))
        if size + more > MOST_PART_BYTES:
            made.append(part)
            size = more
            continue
        made[-1] = joined(made[-1], part)
        size += more
    return made


def joined(first: CompletionPart, second: CompletionPart) -> CompletionPart:
    pieces = {piece.choice: piece for piece in first.pieces}
    for piece in second.pieces:
        said = pieces.get(piece.choice, Piece(choice=piece.choice))
        pieces[piece.choice] = Piece(
            choice=piece.choice,
            text=said.text + piece.text,
            tokens=said.tokens + piece.tokens,
            tool_calls=said.tool_calls + piece.tool_calls,
        )
    return second.model_copy(
        update={"pieces": list(pieces.values()), "ends": first.ends + second.ends}
    )
