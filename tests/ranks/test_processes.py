"""The processes as an agent has them: started by torchrun, told over two pipes, and all gone in the
end.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.engine.conftest import on_base
from tests.engine.test_ranks import stop_at
from tests.ranks.deep import deep, planned
from tests.ranks.forked import run_by
from tunery.states import FailureClass
from worker.protocol import (
    Broke,
    Checkpointed,
    Finished,
    Noted,
    Report,
    Stepped,
    Stop,
    Stopped,
    Train,
)
from worker.settings import engine_environment
from worker.warm_engine import EngineDied, WarmEngine, real_engine

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]
PATIENCE = 240

pytestmark = pytest.mark.long


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[WarmEngine]:
    environment = engine_environment() | {"PYTHONPATH": str(ROOT)}
    engine = real_engine(environment, tmp_path / "engine.log")
    yield engine
    engine.kill()


@pytest.fixture
def endless(make_order: MakeOrder, rows: Rows) -> Train:
    return make_order(rows * 500, n_epochs=1, batch_size=4, gpus=2)


def until(engine: WarmEngine, order: Train, *kinds: type[Report]) -> list[Report]:
    seen: list[Report] = []
    end = time.monotonic() + PATIENCE
    while not (seen and isinstance(seen[-1], kinds)):
        assert time.monotonic() < end, engine.log_tail()
        if report := engine.read(order.job_id, order.token, seconds=1):
            seen.append(report)
    return seen


def processes(pid: int) -> list[int]:
    """Those that it has started and that live, with all of theirs, and itself."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(folder.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += parents.get(found[-1], [])
    return found


def ranks_of(engine: WarmEngine) -> dict[int, int]:
    """The processes' pids by their ranks."""
    assert engine.child
    found = {}
    for pid in processes(engine.child.pid)[1:]:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = next(line for line in environment if line.startswith(b"RANK="))
        found[int(rank.removeprefix(b"RANK="))] = pid
    return found


def require_gone(pids: list[int]) -> None:
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in pids):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


def zombie(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_all_stop_at_one_step_with_a_checkpoint_and_are_gone_and_a_killed_one_ends_the_attempt(
    engine: WarmEngine, endless: Train, make_order: MakeOrder, rows: Rows
) -> None:
    engine.train(endless)
    until(engine, endless, Stepped)
    pids = ranks_of(engine)
    assert sorted(pids) == [0, 1]
    # As a service manager that signals all of them does, beside the agent's own word.
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    engine.write(Stop(job_id=endless.job_id, token=endless.token, checkpoint=True))
    *_, kept, stopped = until(engine, endless, Stopped, Finished, Broke)
    assert isinstance(stopped, Stopped)
    assert isinstance(kept, Checkpointed)
    engine.rest()
    require_gone(list(pids.values()))

    later = make_order(rows * 500, n_epochs=1, batch_size=4, gpus=2, checkpoint=kept.folder)
    engine.train(later)
    first = next(line for line in until(engine, later, Stepped) if isinstance(line, Stepped))
    assert first.metrics.step == kept.metrics.step + 1
    pids = ranks_of(engine)
    os.kill(pids[1], signal.SIGKILL)
    last = until(engine, later, Broke, Finished, Stopped)[-1]
    assert isinstance(last, Broke)
    assert last.failure_class is FailureClass.INFRA
    assert "Another of the 2 processes of this training is gone" in last.message
    engine.rest()
    require_gone(list(pids.values()))


def test_one_that_hangs_silences_all_and_its_stacks_are_in_the_log(
    engine: WarmEngine, endless: Train
) -> None:
    """So the agent ends it, as any engine that hangs."""
    engine.train(endless)
    until(engine, endless, Stepped)
    pids = ranks_of(engine)
    os.kill(pids[1], signal.SIGSTOP)
    end = time.monotonic() + 60
    while engine.read(endless.job_id, endless.token, seconds=5):
        assert time.monotonic() < end, "it goes on alone"
    engine.dump_stacks()
    assert "together.py" in engine.log_file.read_text()
    engine.kill()
    require_gone(list(pids.values()))


def test_all_end_with_the_agent(engine: WarmEngine, endless: Train) -> None:
    """Of which the launcher hears from the kernel, and they from that."""
    engine.train(endless)
    until(engine, endless, Stepped)
    assert engine.child
    pids = processes(engine.child.pid)
    os.kill(engine.child.pid, signal.SIGKILL)
    with pytest.raises(EngineDied):
        until(engine, endless, Finished)
    require_gone(pids[1:])


def test_a_divided_base_is_trained_to_the_end(
    engine: WarmEngine,
    make_order: MakeOrder,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a checkpoint with a plan that has it so."""
    folder = deep(tmp_path)

    def make(**more: Any) -> Train:
        return on_base(make_order(rows, valid=rows[:3], samples=1, gpus=2, **more), folder)

    planned(monkeypatch, divided=True)
    *_, kept = run_by(2, stop_at(2))(make())
    assert isinstance(kept, Checkpointed)
    order = make(checkpoint=kept.folder)
    engine.train(order)
    seen = until(engine, order, Finished, Broke, Stopped)
    assert isinstance(seen[-1], Finished), engine.log_tail()
    resumed = next(line for line in seen if isinstance(line, Noted))
    assert "Resumed from the checkpoint of step 2" in resumed.message
    assert "'divided': True" in str(resumed.data), "it is so still"
    engine.rest()
