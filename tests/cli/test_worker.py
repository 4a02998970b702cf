"""`tunery worker`: one for each GPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_supervisor import wait_until_gone
from tests.conftest import ROOT
from tunery.cli import gpus
from tunery.cli.gpus import NoSuchGpu, chosen

TWO = """\
GPU 0: NVIDIA L4 (UUID: GPU-aaaaaaaa-1111-2222-3333-444444444444)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbbbbbb-1111-2222-3333-444444444444)
"""
SLICED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-cccccccc-1111-2222-3333-444444444444)
  MIG 3g.40gb     Device  0: (UUID: MIG-dddddddd-1111-2222-3333-444444444444)
  MIG 1g.10gb     Device  1: (UUID: MIG-eeeeeeee-1111-2222-3333-444444444444)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-ffffffff-1111-2222-3333-444444444444)
"""
# In the place of `python -m worker`: says what it is and what it got, and waits for its end.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
from threading import Event
work = Path(os.environ["TUNERY_WORK_DIR"])
work.mkdir(parents=True, exist_ok=True)
told = [os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TUNERY_WORKER_NAME"], *sys.argv[1:]]
term = Event()
signal.signal(signal.SIGTERM, lambda *_: term.set())
starts = work / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
(work / "pid").write_text(str(os.getpid()))
(work / "told").write_text(" ".join(told))
if work.name == "gpu2" and len(starts.read_text()) == 1:
    sys.exit("it breaks once")
if "--idle-exit" in sys.argv:
    sys.exit(0)
term.wait()
time.sleep(0.5)
(work / "ended").touch()
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `nvidia-smi` on the PATH: prints the file beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text('#!/bin/sh\ntest "$1" = -L && cat "$(dirname "$0")/listed"\n')
    program.chmod(0o755)
    (folder / "listed").write_text(TWO)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    return folder / "listed"


def test_the_machines_gpus_are_chosen_by_their_numbers_and_known_by_their_uuids(smi: Path) -> None:
    first, second = "GPU-aaaaaaaa-1111-2222-3333-444444444444", "GPU-bbbbbbbb"
    both = chosen("all", {})
    assert [(gpu.label, gpu.name) for gpu in both] == [
        ("gpu0", "NVIDIA L4"), ("gpu2", "NVIDIA A100-SXM4-80GB"),
    ]  # fmt: skip
    assert both[0].uuid == first
    assert chosen("2", {}) == both[1:]
    assert chosen("all", {gpus.VISIBLE: f"{second},0"}) == both[::-1]
    assert chosen("all", {gpus.VISIBLE: "2,7,0"}) == both[1:], "as CUDA stops at what is not there"
    assert chosen("none", {}) == []
    smi.write_text(SLICED)
    assert [gpu.label for gpu in chosen("all", {})] == ["gpu0-mig0", "gpu0-mig1", "gpu1"]
    sliced = chosen("0", {})
    assert [gpu.uuid[:12] for gpu in sliced] == ["MIG-dddddddd", "MIG-eeeeeeee"]
    assert sliced[1].name == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


def test_a_worker_has_as_many_whole_gpus_as_each_of_its_jobs_may_use(smi: Path) -> None:
    own = {"TUNERY_WORKER_NAME": "node", "TUNERY_WORK_DIR": "/work", gpus.PER_JOB: "2"}
    both = chosen("all", {})
    ((label, environment),) = gpus.environments(own, both).items()
    assert label == "gpu0+gpu2"
    assert environment[gpus.VISIBLE] == f"{both[0].uuid},{both[1].uuid}"
    assert environment["TUNERY_WORKER_NAME"] == "node-gpu0+gpu2"
    assert gpus.environments(own, [])["cpu"][gpus.PER_JOB] == "2"
    with pytest.raises(NoSuchGpu, match="2 GPUs for each job leave 1 of 0"):
        gpus.environments(own, both[:1])
    smi.write_text(SLICED)
    with pytest.raises(NoSuchGpu, match="cannot train together"):
        gpus.environments(own, chosen("0", {}))
    with pytest.raises(NoSuchGpu, match="a number of GPUs, not 'two'"):
        gpus.environments({**own, gpus.PER_JOB: "two"}, both)


@pytest.mark.parametrize(
    ("asked", "visible", "listed", "words"),
    [
        ("1", None, TWO, r"there is no GPU 1, only 0 \(NVIDIA L4\), 2 \(NVIDIA A100-SXM4-80GB\)"),
        ("first", None, TWO, '--gpus is "all", "none" or numbers'),
        ("0", "0", TWO, "both say which"),
        ("all", "", TWO, "leaves none of"),
        ("all", None, "", "no NVIDIA GPU is found here. `--gpus none` starts one"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    smi: Path, asked: str, visible: str | None, listed: str, words: str
) -> None:
    smi.write_text(listed)
    with pytest.raises(NoSuchGpu, match=words):
        chosen(asked, {} if visible is None else {gpus.VISIBLE: visible})


def test_a_driver_that_does_not_answer_is_told_in_its_own_words(smi: Path) -> None:
    (smi.parent / "nvidia-smi").write_text(
        "#!/bin/sh\necho Driver/library version mismatch\nexit 18"
    )
    with pytest.raises(NoSuchGpu, match="`nvidia-smi -L` failed: Driver/library version mismatch"):
        chosen("all", {})


def start(tmp_path: Path, *arguments: str, **changed: str) -> subprocess.Popen[str]:
    (tmp_path / "stand" / "worker").mkdir(parents=True)
    (tmp_path / "stand" / "worker" / "__init__.py").touch()
    (tmp_path / "stand" / "worker" / "__main__.py").write_text(STAND_IN)
    program = f"""
import sys
from pathlib import Path
from tunery.cli import service
service.ROOT = Path({str(tmp_path / "stand")!r})
from tunery.cli.main import app
app({list(arguments)!r})
"""
    environment = {
        "PATH": os.environ["PATH"],  # noqa: TID251
        "PYTHONPATH": str(ROOT),
        "TUNERY_API_URL": "http://127.0.0.1:9",
        "TUNERY_WORKER_KEY": "k",
        "TUNERY_WORK_DIR": str(tmp_path / "work"),
        "TUNERY_WORKER_NAME": "box",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment | changed,
        stderr=subprocess.PIPE,
        text=True,
    )


def appears(path: Path) -> str:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.usefixtures("smi")
def test_each_gpu_has_its_worker_which_is_started_again_and_told_to_end(tmp_path: Path) -> None:
    command = start(tmp_path, "worker")
    work = tmp_path / "work"
    told = appears(work / "gpu0" / "told")
    assert told == "GPU-aaaaaaaa-1111-2222-3333-444444444444 box-gpu0 --poll"
    until = time.monotonic() + 60
    while appears(work / "gpu2" / "starts") != "xx":
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(int((work / "gpu0" / "pid").read_text()), signal.SIGTERM)
    while (work / "gpu0" / "starts").read_text() != "xx":
        assert time.monotonic() < until, "its GPU is to go on, whoever told it to end"
        time.sleep(0.02)
    (work / "gpu0" / "ended").unlink()
    began = time.monotonic()
    command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 0
    assert (work / "gpu0" / "ended").exists(), "nobody is killed within its grace"
    assert (work / "gpu2" / "ended").exists()
    assert time.monotonic() - began < 5
    assert "gpu2 ended (status 1); starting it again in 0.5 s\n" in said
    assert "it breaks once" in said
    wait_until_gone([int((work / name / "pid").read_text()) for name in ("gpu0", "gpu2")])


def test_it_ends_when_every_worker_has_ended_by_itself(tmp_path: Path) -> None:
    command = start(tmp_path, "worker", "--gpus", "none", "--idle-exit", "5")
    _, said = command.communicate(timeout=60)
    assert (command.returncode, "cpu has ended" in said) == (0, True), said
    assert (tmp_path / "work" / "cpu" / "told").read_text() == " box-cpu --poll --idle-exit 5"


def test_what_is_not_set_is_named(tmp_path: Path) -> None:
    command = start(tmp_path, "worker", "--gpus", "none", TUNERY_WORKER_KEY="")
    _, said = command.communicate(timeout=60)
    assert command.returncode == 1
    assert said.startswith("tunery: TUNERY_WORKER_KEY must be set.")
