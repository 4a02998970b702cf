import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunery.cli import supervisor
from tunery.cli.supervisor import Service, ServiceError, Supervisor

# Writes its own number and its child's, then lives on; with `stubborn` it ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "120"])
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.replace(sys.argv[1] + ".new", sys.argv[1])
time.sleep(120)
"""

SUPERVISOR = """
import sys
from pathlib import Path
from tests.cli.test_supervisor import family
from tunery.cli import supervisor
from tunery.cli.supervisor import Supervisor
class Told(Supervisor):
    told = False
    def tend(self):
        # From here on a signal is heard.
        if not self.told:
            print("all ready", flush=True)
        self.told = True
        super().tend()
with Told(lambda line: print(line, flush=True)) as supervisor:
    supervisor.start(family(Path(sys.argv[1]), "polite"), family(Path(sys.argv[1]), "stubborn"))
    supervisor.wait()
"""


def python(folder: Path, name: str, script: str, *words: str, ready: str = "") -> Service:
    """A service that is ready once the file `ready` exists; at once where none is named."""
    return Service(
        name=name,
        argv=(sys.executable, "-I", "-S", "-c", script, *words),
        env={},
        ready=(folder / ready).exists,
        log=folder / f"{name}.log",
        ready_within_s=60,
        grace_s=0.5,
    )


def family(folder: Path, name: str) -> Service:
    return python(folder, name, FAMILY, str(folder / f"{name}.pid"), name, ready=f"{name}.pid")


def members(folder: Path) -> list[int]:
    return [int(word) for path in folder.glob("*.pid") for word in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def supervisor_in_child(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    for line in child.stdout:
        if line == "all ready\n":
            return child
    pytest.fail("the supervisor ended before its services were ready")


def test_each_service_gets_one_line_and_all_processes_end_with_the_block(tmp_path: Path) -> None:
    lines: list[str] = []
    with Supervisor(lines.append) as supervisor:
        supervisor.start(family(tmp_path, "polite"))
        supervisor.start(family(tmp_path, "second"))
        assert [line.split()[0] for line in lines] == ["polite", "second"]
        pids = members(tmp_path)
        assert all(map(alive, pids))
        assert len(pids) == 4
    assert not any(map(alive, pids))


def test_services_given_together_start_together(tmp_path: Path) -> None:
    # Each waits for the other's file: one after another they would never be ready.
    script = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    with Supervisor(print) as supervisor:
        supervisor.start(
            python(tmp_path, "one", script, str(tmp_path / "1"), ready="2"),
            python(tmp_path, "two", script, str(tmp_path / "2"), ready="1"),
        )


def test_a_service_that_never_gets_ready_is_refused_with_the_tail_of_this_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow.log").write_text("of an earlier start\n")
    # A shell starts at once, however busy the machine is.
    script = "yes 'line 1' | head -n 50; echo waiting for godot; exec sleep 60"
    service = python(tmp_path, "slow", "", ready="never")
    given = {"argv": ("/bin/sh", "-c", script), "ready_within_s": 1.0}
    impatient = Service(**{**vars(service), **given})
    with Supervisor(print) as supervisor, pytest.raises(ServiceError) as refusal:
        supervisor.start(impatient)
    assert "slow was not ready within 1 s" in str(refusal.value)
    assert "waiting for godot" in str(refusal.value)
    assert "earlier" not in str(refusal.value)
    assert str(refusal.value).count("line 1") < 20


def test_a_service_that_ends_at_once_is_refused_without_waiting(tmp_path: Path) -> None:
    service = python(tmp_path, "broken", "raise SystemExit('no such model')", ready="never")
    with Supervisor(print) as supervisor:
        with pytest.raises(ServiceError, match=r"broken ended \(status 1\)\n.*no such model"):
            supervisor.start(service)
        with pytest.raises(ServiceError, match=r"nowhere cannot be started.*No such file"):
            supervisor.start(Service(**{**vars(service), "name": "nowhere", "argv": ("/nowhere",)}))


def test_a_dead_service_is_restarted_and_its_orphans_are_ended(tmp_path: Path) -> None:
    lines: list[str] = []
    with Supervisor(lines.append) as supervisor:
        supervisor.start(family(tmp_path, "polite"))
        before = members(tmp_path)
        (tmp_path / "polite.pid").unlink()
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(lines) < 3 and time.monotonic() < deadline:
            supervisor.tend()
            time.sleep(0.02)
        assert "ended (killed by SIGKILL); starting it again in 0.5 s" in lines[1]
        assert lines[2].startswith("polite")
        assert not any(map(alive, before))
        assert all(map(alive, members(tmp_path)))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_every_process(tmp_path: Path, stop: signal.Signals) -> None:
    with supervisor_in_child(tmp_path) as child:
        pids = members(tmp_path)
        assert len(pids) == 4
        child.send_signal(stop)
        assert child.stdout
        assert "stubborn did not stop in 0.5 s: killed" in child.stdout.read()
        assert child.wait(60) == 0
    assert not any(map(alive, pids))


def test_a_terminals_ctrl_c_reaches_only_the_supervisor(tmp_path: Path) -> None:
    with Supervisor(print) as supervisor:
        supervisor.start(family(tmp_path, "polite"))
        assert os.getsid(members(tmp_path)[0]) != os.getsid(0)


def test_a_killed_supervisor_leaves_no_process_not_even_a_services_children(
    tmp_path: Path,
) -> None:
    with supervisor_in_child(tmp_path) as child:
        pids = members(tmp_path)
        assert len(pids) == 4
        child.kill()
    wait_until_gone(pids)


def test_the_death_signal_alone_ends_services_when_the_guard_is_killed_too(tmp_path: Path) -> None:
    with supervisor_in_child(tmp_path) as child:
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        pids = members(tmp_path)
        polite = int((tmp_path / "polite.pid").read_text().split()[0])
        (guard,) = {int(pid) for pid in children} - set(pids)
        os.kill(guard, signal.SIGKILL)
        child.kill()
    wait_until_gone([polite])
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


def test_a_log_stays_below_its_limit_however_much_a_service_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 100_000)
    # 5 MB a second, as uvicorn does when it has no descriptors left.
    script = """
import sys, time
for number in range(1_000_000):
    print(f"line {number:07} " + "x" * 5_000)
    if number == 2_000:
        open(sys.argv[1], "w").close()
    time.sleep(0.001)
"""
    noisy = python(tmp_path, "noisy", script, str(tmp_path / "much"), ready="much")
    largest = 0
    with Supervisor(print) as running:
        running.start(noisy)
        for _ in range(20):
            running.tend()
            largest = max(largest, *(path.stat().st_size for path in tmp_path.glob("noisy.log*")))
            time.sleep(0.05)
        numbers = [
            int(line.split()[1])
            for name in ("noisy.log.2", "noisy.log.1", "noisy.log")
            for line in (tmp_path / name).read_text().splitlines()
            if line.startswith("line ") and len(line) > 20
        ]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 2_000
    assert len(list(tmp_path.glob("noisy.log*"))) == 3
    assert largest < 5_000_000, "10 MB were written"
