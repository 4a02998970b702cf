"""Two engines on one GPU would each plan with all of it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from worker.engine import alone

# What another engine does, without the seconds that torch takes to import.
OTHER = """
import socket, sys
place = socket.socket(socket.AF_UNIX)
place.bind("\\0tunery " + sys.argv[1])
print("taken", flush=True)
sys.stdin.read()
"""


def test_the_second_engine_on_a_gpu_says_so_until_the_first_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uuid = "5f4dcc3b-aa76-5d61-8327-deb882cf99aa"
    monkeypatch.setattr(alone, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(alone, "device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(alone, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(uuid=uuid))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first = subprocess.Popen(
        [sys.executable, "-c", OTHER, f"GPU-{uuid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    assert first.stdout.readline() == "taken\n"
    refused = alone.taken_by_another()
    assert refused
    assert f"has its GPU, NVIDIA L4 (GPU-{uuid})" in refused
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1b1c")
    assert alone.taken_by_another() is None, "a slice is no other slice's GPU"
    first.communicate()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(alone, "WAIT_SECONDS", 30)
    assert alone.taken_by_another() is None
    while alone._places:
        alone._places.pop().close()


def test_without_a_gpu_nobody_is_in_the_way() -> None:
    if not torch.cuda.is_available():
        assert alone.taken_by_another() is None
