"""What a machine without a GPU is told of itself; `make test-gpu` has the other half."""

import pytest
import torch

from worker.engine import check


def test_training_libraries_and_device_are_named_and_a_gpu_that_torch_misses_is_wrong() -> None:
    found = {one.check: one for one in check.look(nvidia=False)}
    assert found["pytorch"].state == "ok"
    assert torch.__version__ in found["pytorch"].message
    if torch.cuda.is_available():
        assert found["gpu"].state == found["gpu computes"].state == "ok", found
        return
    assert found["gpu"].state == "warn"
    assert check.no_gpu(nvidia=True).state == "wrong"


def test_a_build_for_cpus_on_a_machine_with_a_gpu_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "build for CPUs" in check.no_gpu(nvidia=True).message
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "finds no GPU" in check.no_gpu(nvidia=True).message
