"""The simulation of docs/scaling.md follows the service's own rules, and the autoscalers'."""

from api.jobs.estimates.devices import Device
from benchmarks.scaling import work
from benchmarks.scaling.autoscalers import Fixed, ScaledJob, ScaledObject
from benchmarks.scaling.fleet import Simulation, Spot
from benchmarks.scaling.queue import Queue
from benchmarks.scaling.work import BASES, Job

GIB = 1 << 30


def job(number: int, project: int = 0, *, base: int = 0, arrived: float = 0, gib: int = 1) -> Job:
    return Job(number, project, BASES[base], arrived, {"bf16": gib * GIB}, 100.0)


def test_turns_and_demand_are_those_of_the_service() -> None:
    devices = {"l4": Device(None, 22 * GIB), "h100": Device(None, 80 * GIB)}
    jobs = [job(0), job(1), job(2, 1, arrived=5), job(3, 2, gib=60), job(4, 2, gib=90)]
    queue = Queue(devices, jobs[:])
    assert queue.demand(10) == {"l4": 3, "h100": 1, "none": 1}

    def claim(pool: str, warm: str | None = None) -> Job | None:
        return queue.claim(10, pool, warm, set(), set())

    assert [claim("l4"), claim("l4"), claim("l4"), claim("l4")] == [
        *jobs[:1],
        jobs[2],
        jobs[1],
        None,
    ]
    assert claim("h100") is jobs[3]
    assert queue.demand(10) == {"l4": 3, "h100": 1, "none": 1}, (
        "what runs is in demand where it runs"
    )
    queue = Queue(devices, [job(5, base=1, arrived=35)])
    assert queue.claim(40, "l4", None, set(), {BASES[1].name}) is None, "others have its base"
    assert queue.claim(46, "l4", None, set(), {BASES[1].name})
    queue = Queue(devices, [job(5, 0, base=1), job(6, 0, base=2, arrived=30)])
    chosen = queue.claim(40, "l4", BASES[2].name, set(), set())
    assert chosen
    assert chosen.number == 6, "a job on the warm base has a head start of a minute"


def test_an_autoscaler_doubles_at_most_waits_before_it_goes_down_and_cools_before_it_ends() -> None:
    scaled = ScaledObject(most=50)
    scaled.poll(0, 30)
    assert scaled.replicas == 1
    seen = []
    for at in (0, 15, 30, 45):
        scaled.adjust(at, 30)
        seen.append(scaled.replicas)
    assert seen == [5, 10, 20, 30]
    scaled.adjust(60, 31)
    assert scaled.replicas == 30, "a tenth more or less changes nothing"
    scaled.adjust(75, 2)
    assert scaled.replicas == 30
    scaled.adjust(75 + 300, 2)
    assert scaled.replicas == 2
    scaled.poll(390, 2)
    scaled.poll(420, 0)
    assert scaled.replicas == 2
    scaled.poll(700, 0)
    assert scaled.replicas == 0
    assert ScaledJob(always=2, most=10).more(demand=30, on_demand=3) == 5
    assert ScaledJob().more(demand=3, on_demand=5) == 0


def test_the_same_days_cost_the_same_and_every_job_ends() -> None:
    jobs = work.jobs_of(1)[:40]
    for fleet, spot in ((Fixed(4), None), (ScaledJob(), Spot(resume=True))):
        first, second = (
            Simulation(work.again(jobs), fleet, days=1, spot=spot).run() for _ in range(2)
        )
        assert first == second
        assert len(first.waits) == 40
        useful = first.busy_seconds - first.lost_seconds
        assert abs(useful - sum(one.seconds for one in jobs)) < 1
