"""What users, workers and the janitor do with jobs, in any order, against a model of a few lines
that says what must come of it.

A failure is printed as the shortest list of steps that shows it. The next run tries it again first;
the printed `@reproduce_failure(...)` above `class Lifecycle` replays it anywhere.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, text

from api.db import invariants
from api.db.session import Database
from api.files import files
from api.jobs import intake
from api.jobs import state as jobs
from api.jobs.queue import attempts, leases
from api.jobs.requests import CreateJob
from api.settings import Settings
from api.storage.folder import Folder
from api.storage.kept import kept_keys
from api.tables import Attempt, Checkpoint, Event, Job, Lease, Worker
from api.tenants import projects
from api.workers import workers
from tests.api.jobs.lives import Claim, DataFile, Life, Machine, World
from tests.conftest import BASE
from tests.factories import ARTIFACTS, caller, end_pauses, worker_facts
from tunery import messages
from tunery.data.check import Report
from tunery.errors import Conflict, FileHasFaults, LeaseLost
from tunery.facts import FileFacts
from tunery.measured import Metrics
from tunery.states import (
    MAX_IDLE_ATTEMPTS,
    MAX_INFRA_FAILURES,
    MAX_INTERRUPTIONS,
    MAX_OOM_FAILURES,
)

# `settings(A_FEW, max_examples=10_000)` is the same, for longer. Each run takes other paths.
A_FEW = settings(
    max_examples=7,
    stateful_step_count=60,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

Method = TypeVar("Method", bound=Callable[..., Any])
STEPS: list[tuple[str, st.SearchStrategy[tuple[str, dict[str, Any]]]]] = []

WORKERS = ("w1", "w2", "w3")
ENDED = {"succeeded", "failed", "cancelled"}
STOPPED = {"released", "paused", "cancelled"}
# Which ends of a claim each word may have brought about: saying it again changes nothing.
BROUGHT = {
    "succeeded": {"succeeded"},
    "failed": {"failed"},
    "released": STOPPED,
}
GOOD = Report(rows=12, formats={"chat": 12}).as_dict()
WORDS: dict[str, messages.Failed | messages.Released | None] = {
    "succeeded": None,
    "released": messages.Released(),
} | {
    kind: messages.Failed.model_validate({"failure_class": kind, "code": "c", "message": "m"})
    for kind in ("user", "infra", "oom", "base", "preempted")
}


def loss(step: int) -> float:
    """The later is not the better."""
    return step % 3 + step / 100


def one_of_the(kind: str) -> st.SearchStrategy[Any]:
    return st.runner().flatmap(lambda life: st.sampled_from(getattr(life, kind)))


def a_claim() -> st.SearchStrategy[Claim]:
    """A live one rather than a stale one."""
    return st.runner().flatmap(
        lambda life: st.sampled_from(life.live or life.claims) | st.sampled_from(life.claims)
    )


def step(
    *, needs: str = "jobs", often: int = 1, **arguments: st.SearchStrategy[Any]
) -> Callable[[Method], Method]:
    """One of the steps, to be taken so often beside the others, while there are any of `needs`."""

    def register(method: Method) -> Method:
        taken = st.tuples(st.just(method.__name__), st.fixed_dictionaries(arguments))
        STEPS.extend([(needs, taken)] * often)
        return method

    return register


def next_step(life: "Lifecycle") -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Any of those that can be taken. (As rules of their own, Hypothesis would leave out half of
    them in each run, and hardly any job would come far.)
    """
    possible = [taken for needs, taken in STEPS if getattr(life, needs)]
    return st.sampled_from(possible).flatmap(lambda taken: taken)


class Lifecycle(RuleBasedStateMachine):
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.clock = count(1)
        self.numbers = count(1)
        self.files: list[DataFile] = []
        self.jobs: list[Life] = []
        self.claims: list[Claim] = []
        self.machines = {name: Machine() for name in WORKERS}
        self.api = "away"
        with self.world.db.sessions.begin() as tx:
            for table in ("lease", "job", "file", "worker", "attendance"):
                tx.execute(text(f"DELETE FROM {table}"))  # noqa: S608
        for name in WORKERS:
            self.beat(name, [])
        self.attend("listening")
        # Two that are ready and one whose file is still to be checked.
        for check in (True, None):
            self.upload(check)
        for file in (self.files[0], self.files[0], self.files[1]):
            self.create([file], 0)

    @property
    def live(self) -> list[Claim]:
        return [claim for claim in self.claims if not claim.end]

    @property
    def free(self) -> list[str]:
        """Workers without a claim, while a job waits for one."""
        if all(job.state != "queued" for job in self.jobs):
            return []
        busy = {claim.worker for claim in self.live}
        return [name for name in WORKERS if name not in busy]

    @rule(step=st.runner().flatmap(next_step))
    def go_on(self, step: tuple[str, dict[str, Any]]) -> None:
        name, arguments = step
        getattr(self, name)(**arguments)

    # A worker's steps.

    @step(needs="free", often=6, name=one_of_the("free"))
    def claim(self, name: str) -> None:
        ask = messages.ClaimRequest(**worker_facts(name).model_dump())
        with self.world.db.as_control() as tx:
            lease = leases.claim(tx, self.world.storage, self.world.settings, ask)
        machine = self.machines[name]
        ready = {job.id: job for job in self.jobs if job.state == "queued" and job.ready}
        first = min((job.ready for job in ready.values() if job.ready), default=None)
        if machine.draining or machine.quarantined or first is None:
            assert lease is None
            return
        assert lease
        job = ready[lease.job_id]
        assert job.ready == first
        job.state, job.token, job.idle = "running", job.token + 1, job.idle + 1
        assert lease.token == job.token
        links = [lease.checkpoint, *lease.earlier_checkpoints]
        assert [link.step for link in links if link] == sorted(job.checkpoints, reverse=True)
        self.claims.append(Claim(job, job.token, name))

    @step(name=st.sampled_from(WORKERS))
    def heartbeat(self, name: str) -> None:
        """Of all the claims it ever had."""
        own = [claim for claim in self.claims if claim.worker == name]
        told = self.beat(name, own)
        for claim, directive in zip(own, told, strict=True):
            wish = claim.job.desired
            if claim.end:
                wish = "lost"
            elif wish == "run" and self.machines[name].draining:
                wish = "release"
            assert directive == wish
            claim.expired = False

    def beat(self, name: str, claims: list[Claim]) -> list[str]:
        ask = messages.HeartbeatRequest(
            worker=worker_facts(name),
            leases=[
                messages.LeaseBeat(job_id=claim.job.id, token=claim.token, step=0)
                for claim in claims
            ],
        )
        with self.world.db.as_control() as tx:
            reply = leases.heartbeat(tx, self.world.settings, ask)
        return [answer.directive for answer in reply.leases]

    @step(needs="claims", claim=a_claim(), step=st.integers(1, 6), again=st.booleans())
    def say_step(self, claim: Claim, step: int, again: bool) -> None:
        first = claim.sent - 1 if again and claim.sent else claim.sent
        metrics = Metrics(step=step, train_loss=1.0)
        said = messages.JobEvent(message=f"Step {step}", metrics=metrics)
        batch = messages.EventBatch(first=first, events=[said])
        with self.refused_if(bool(claim.end), LeaseLost):
            with self.world.db.as_control() as tx:
                attempts.add_events(tx, claim.job.id, claim.token, batch)
            if first == claim.sent:
                claim.sent += 1
                claim.job.steps.add(step)

    @step(needs="claims", often=2, claim=a_claim(), further=st.integers(0, 2))
    def add_checkpoint(self, claim: Claim, further: int) -> None:
        """The same step again comes of a damaged checkpoint, or of an answer that was lost."""
        job = claim.job
        step = max(job.checkpoints, default=1) + further
        with self.refused_if(bool(claim.end), LeaseLost):
            for key in self.send_checkpoint(claim, step):
                self.world.storage.delete(key)
            if step > max(job.checkpoints, default=0):
                job.idle = job.interrupted = 0
            job.checkpoints[step] = claim.token
            last, best = sorted(job.checkpoints)[-2:], min(job.checkpoints, key=loss)
            job.checkpoints = {s: t for s, t in job.checkpoints.items() if s in {*last, best}}

    def send_checkpoint(self, claim: Claim, step: int) -> set[str]:
        facts = self.send(claim, "state.bin", f"{claim.token} {step}".encode())
        written = messages.CheckpointWritten(
            step=step,
            epoch=0,
            metrics=Metrics(step=step, valid_loss=loss(step)),
            files=[facts],
        )
        with self.world.db.as_control() as tx:
            return attempts.add_checkpoint(tx, claim.job.id, claim.token, written, [])

    def lacking(
        self, claim: Claim, result: messages.Succeeded | messages.Failed | messages.Released
    ) -> list[str]:
        if not isinstance(result, messages.Succeeded):
            return []
        given = (claim.job.id, claim.token, result)
        return attempts.ready_to_publish(self.world.storage, *given)

    def send(self, claim: Claim, name: str, content: bytes) -> FileFacts:
        return self.world.store(f"jobs/{claim.job.id}/{claim.token}/{{sha256}}", content, name)

    @step(needs="claims", often=4, claim=a_claim(), word=st.sampled_from(sorted(WORDS)))
    def finish(self, claim: Claim, word: str) -> None:
        if claim.end:
            kind = word if word in BROUGHT else "failed"
            with self.refused_if(claim.end not in BROUGHT[kind], LeaseLost):
                self.say(claim, word)
            return
        self.say(claim, word)
        job, machine = claim.job, self.machines[claim.worker]
        match word:
            case "succeeded":
                self.end(claim, "succeeded", "succeeded")
                machine.failures, machine.failed, machine.quarantined = 0, None, False
            case "user":
                self.end(claim, "failed", "failed", word)
            case "infra" | "oom":
                self.fail_in_passing(claim, word)
            case "preempted":
                self.interrupt(claim, "failed", next(self.clock))
            case "released" if job.desired == "run":
                job.idle = max(job.idle - 1, 0)
                self.end(claim, "released", "queued")
            case "base" if job.desired == "run":
                job.idle = max(job.idle - 1, 0)
                claim.end, claim.job.failure = "failed", None
                # It keeps its place in the queue.
                job.state = "queued"
            case _:
                self.end_as_wished(claim)
        if word == "infra" and machine.failed is not job:
            machine.failures, machine.failed = machine.failures + 1, job
            machine.quarantined = machine.quarantined or machine.failures >= workers.MOST_FAILURES

    def fail_in_passing(self, claim: Claim, word: str) -> None:
        job = claim.job
        job.infra += word == "infra"
        job.oom += word == "oom"
        if job.desired != "run":
            self.end_as_wished(claim)
        elif job.idle >= MAX_IDLE_ATTEMPTS:
            self.end(claim, "failed", "failed", "poisoned")
        elif job.infra >= MAX_INFRA_FAILURES or job.oom >= MAX_OOM_FAILURES:
            self.end(claim, "failed", "failed", word)
        else:
            self.end(claim, "failed", "queued")
            job.ready = None

    def interrupt(self, claim: Claim, end: str, since: int) -> None:
        job = claim.job
        if job.desired != "run":
            self.end_as_wished(claim)
            return
        job.idle, job.interrupted = max(job.idle - 1, 0), job.interrupted + 1
        if job.interrupted >= MAX_INTERRUPTIONS:
            self.end(claim, end, "failed", "poisoned")
        else:
            self.end(claim, end, "queued")
            job.ready = since if job.interrupted == 1 else None

    def end_as_wished(self, claim: Claim) -> None:
        claim.job.idle = max(claim.job.idle - 1, 0)
        state = {"cancel": "cancelled", "pause": "paused"}[claim.job.desired]
        self.end(claim, state, state)

    def end(self, claim: Claim, end: str, state: str, failure: str | None = None) -> None:
        claim.end, claim.job.failure = end, failure
        if state == "queued":
            self.queue(claim.job)
        else:
            claim.job.state = state

    def queue(self, job: Life) -> None:
        job.state, job.ready = "queued", next(self.clock)

    def say(self, claim: Claim, word: str) -> None:
        result = WORDS[word] or messages.Succeeded(
            trained_tokens=1,
            files=[self.send(claim, name, name.encode()) for name in ARTIFACTS],
            metrics_csv="metrics.csv",
        )
        with self.world.db.as_control() as tx:
            attempts.finish(
                tx,
                self.world.settings,
                claim.job.id,
                claim.token,
                messages.FinishRequest(result=result),
                self.lacking(claim, result),
            )

    # A user's steps.

    @step(check=st.sampled_from([True, False, None]))
    def upload(self, check: bool | None) -> None:
        """`check` is how the file's check ends at once; None: it is still to come."""
        key = files.new_key()
        facts = self.world.store(key, b"{}\n")
        with self.world.db.as_project(self.world.project_id) as tx:
            row = files.add(
                tx,
                self.world.project_id,
                key=key,
                filename="data.jsonl",
                size=facts.bytes,
                digest=facts.sha256,
            )
        self.files.append(DataFile(next(self.numbers), row.id))
        if check is not None:
            self.end_check(self.files[-1], check)

    @step(
        data=st.lists(one_of_the("files"), min_size=1, max_size=2),
        infra=st.sampled_from([0, MAX_INFRA_FAILURES - 2]),
    )
    def create(self, data: list[DataFile], infra: int) -> None:
        asked = {"model": BASE, "training_file": data[0].id, "validation_file": data[-1].id}
        with self.refused_if(any(file.status == "error" for file in data), FileHasFaults):
            with self.world.db.as_project(self.world.project_id) as tx:
                row = intake.create(
                    tx, caller(self.world.project_id), CreateJob.model_validate(asked)
                )
                # So many failures lie behind it.
                row.infra_failures = infra
            self.jobs.append(Life(next(self.numbers), row.id, data, infra))
            self.take_up(self.jobs[-1], next(self.clock))

    @step(file=one_of_the("files"), good=st.booleans())
    def end_check(self, file: DataFile, good: bool) -> None:
        with self.world.db.as_control() as tx:
            intake.finish_check(tx, file.id, GOOD if good else files.UNREADABLE)
        if file.status == "uploaded":
            file.status = "processed" if good else "error"
        since = next(self.clock)
        for job in self.jobs:
            self.take_up(job, since)

    def take_up(self, job: Life, since: int) -> None:
        found = {file.status for file in job.files}
        if job.state != "validating_files":
            return
        if "error" in found:
            job.state, job.failure = "failed", "user"
        elif found == {"processed"} and job.desired == "pause":
            job.state = "paused"
        elif found == {"processed"}:
            job.state, job.ready = "queued", since

    @step(often=4, job=one_of_the("jobs"), wish=st.sampled_from(["run", "pause", "cancel"]))
    def wish(self, job: Life, wish: str) -> None:
        ask = {"run": jobs.resume, "pause": jobs.pause, "cancel": jobs.cancel}[wish]
        ended = job.state in ENDED or job.desired == "cancel"
        refused = job.state in {"succeeded", "failed"} if wish == "cancel" else ended
        with self.refused_if(refused, Conflict):
            with self.world.db.as_project(self.world.project_id) as tx:
                ask(tx, job.id)
            job.desired = wish
            if wish == "cancel" and job.state != "running":
                job.state = "cancelled"
            elif wish == "pause" and job.state == "queued":
                job.state = "paused"
            elif wish == "run" and job.state == "paused":
                self.queue(job)

    # What happens in its own time.

    @step(needs="live", often=3, claim=one_of_the("live"))
    def fall_silent(self, claim: Claim) -> None:
        with self.world.db.as_control() as tx:
            silent = "UPDATE lease SET until = clock_timestamp() WHERE job_id = :id"
            tx.execute(text(silent), {"id": claim.job.id})
        claim.expired = True

    @step(often=2)
    def rescue(self) -> None:
        rescued = set()
        while True:
            with self.world.db.as_control() as tx:
                row = leases.rescue(tx, self.world.settings)
            if row is None:
                break
            rescued.add(row.id)
        gone = [claim for claim in self.live if claim.expired and self.api == "listening"]
        assert rescued == {claim.job.id for claim in gone}
        since = next(self.clock)
        for claim in gone:
            self.interrupt(claim, "lost", since)

    @step(often=2)
    def end_pauses(self) -> None:
        end_pauses(self.world.db)
        since = next(self.clock)
        for job in self.jobs:
            if job.state == "queued":
                job.ready = since

    @step(api=st.sampled_from(["away", "back", "listening"]))
    def attend(self, api: str) -> None:
        """No API is there; one is; one has been for a lease's time."""
        with self.world.db.as_control() as tx:
            if api == "away":
                tx.execute(text("UPDATE attendance SET seen_at = now() - interval '2 h'"))
            else:
                leases.attend(tx, lease_seconds=self.world.settings.lease_seconds)
            if api == "listening":
                tx.execute(text("UPDATE attendance SET since = now() - interval '2 h'"))
        if (self.api, api) != ("listening", "back"):
            self.api = api

    @step(name=st.sampled_from(WORKERS), what=st.sampled_from(["drain", "resume", "wait"]))
    def treat(self, name: str, what: str) -> None:
        """An operator drains a worker or takes it back; or its quarantine ends."""
        machine = self.machines[name]
        with self.world.db.as_control() as tx:
            match what:
                case "drain":
                    workers.drain(tx, f"worker-{name}")
                    machine.draining = True
                case "resume":
                    workers.resume(tx, f"worker-{name}")
                    self.machines[name] = Machine()
                case _:
                    over = "UPDATE worker SET quarantined_until = now() WHERE name = :name"
                    tx.execute(text(over), {"name": name})
                    machine.quarantined = False

    @contextmanager
    def refused_if(self, refused: bool, kind: type[Exception]) -> Iterator[None]:
        """What follows is refused and changes nothing, or goes through."""
        if refused:
            with pytest.raises(kind):
                yield
        else:
            yield

    # What must hold after each.

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        with self.world.db.as_control() as tx:
            found = {row.id: row for row in tx.scalars(select(Job))}
            held = tx.execute(select(Lease.job_id, Lease.token))
            assert set(map(tuple, held)) == {(claim.job.id, claim.token) for claim in self.live}
            claims = tx.execute(select(Attempt.job_id, Attempt.token, Attempt.outcome))
            assert set(map(tuple, claims)) == {
                (claim.job.id, claim.token, claim.end) for claim in self.claims
            }
            checkpoints = by_job(tx.execute(select(Checkpoint.job_id, Checkpoint.step)))
            steps = by_job(tx.execute(select(Event.job_id, Event.step)))
            successes = by_job(
                tx.execute(
                    select(Event.job_id, func.count())
                    .where(Event.message == "The job has successfully completed")
                    .group_by(Event.job_id)
                )
            )
            kept = [key for job in self.jobs for key in kept_keys(tx, job.id)]
            assert not any(invariants.violations(tx).values())
            for worker in tx.scalars(select(Worker)):
                machine = self.machines[worker.name]
                failed = machine.failed and machine.failed.id
                assert (worker.failures, worker.failed_job_id) == (machine.failures, failed)
                standing = workers.state_of(tx, worker)
                assert (standing == "quarantined") == machine.quarantined
                assert (worker.state == "draining") == machine.draining
        assert all(self.world.storage.path(key).is_file() for key in kept)
        for job in self.jobs:
            row = found[job.id]
            assert (row.state, row.desired_state, row.token) == (job.state, job.desired, job.token)
            counts = (row.idle_attempts, row.infra_failures, row.oom_failures)
            assert counts == (job.idle, job.infra, job.oom)
            assert row.failure_class == (job.failure if job.state == "failed" else None)
            assert checkpoints.get(job.id, set()) == set(job.checkpoints)
            assert steps[job.id] - {None} == job.steps
            assert successes.get(job.id, set()) == ({1} if job.state == "succeeded" else set())


def by_job(rows: Iterable[Any]) -> dict[str, set[Any]]:
    found: dict[str, set[Any]] = {}
    for job_id, value in rows:
        found.setdefault(job_id, set()).add(value)
    return found


def test_whatever_happens_in_whatever_order_a_job_is_where_it_must_be(
    db: Database, settings: Settings
) -> None:
    changed = {"lease_seconds": 3600, "retry_seconds": 300, "quarantine_seconds": 3600}
    with db.as_control() as tx:
        project_id = projects.ensure_project(tx, "default").id
    Lifecycle.world = World(
        db,
        Folder(settings.folder, settings.secret.get_secret_value()),
        settings.model_copy(update=changed),
        project_id,
    )
    run_state_machine_as_test(Lifecycle, settings=A_FEW)
