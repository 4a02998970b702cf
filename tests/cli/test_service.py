"""Where `tunery up` finds the server and the worker."""

from pathlib import Path

import pytest

from tunery.cli import service


def test_up_without_the_packages_of_server_and_worker_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "NEEDED", ("fastapi", "torch_that_is_not_installed"))
    with (
        pytest.raises(service.ServiceFault, match=r'pip install "tunery\[all\]"'),
        service.running(tmp_path / "data", 0, print),
    ):
        pass
    assert not (tmp_path / "data").exists()
