"""Adapters on a worker's disk, fetched from an API that takes its time."""

import threading
from collections.abc import Callable
from pathlib import Path

from tests.worker.conftest import wait_for
from tunery.facts import FileLink
from tunery.messages import AdapterLink
from worker.adapters import Adapters
from worker.client import Client


class Slow(Client):
    """Gives out nothing before it `may`."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "key")
        self.may = threading.Event()

    def download(
        self,
        link: FileLink,
        to: Path,
        *,
        patience: float,
        stop_if_asked: Callable[[], None] = lambda: None,
    ) -> None:
        assert patience
        while not self.may.wait(0.01):
            stop_if_asked()
        to.write_text(link.sha256)


def adapter(digit: str) -> AdapterLink:
    file = FileLink(name="adapter_model.safetensors", bytes=64, sha256=digit * 64, url="/")
    return AdapterLink(files=[file])


def test_who_waits_for_an_adapter_is_heard_of_and_keeps_no_other_one_back(tmp_path: Path) -> None:
    client = Slow()
    adapters = Adapters(tmp_path / "adapters", client)
    asked: set[str] = set()

    def use(digit: str) -> None:
        with adapters.ready(adapter(digit), lambda: asked.add(digit)) as place:
            assert (place / "adapter_model.safetensors").read_text() == digit * 64

    client.may.set()
    use("a")
    client.may.clear()
    threads = [threading.Thread(target=use, args=(digit,)) for digit in "bc"]
    for thread in threads:
        thread.start()
    wait_for(lambda: asked == {"b", "c"})
    use("a")
    client.may.set()
    for thread in threads:
        thread.join()
    assert len(list(adapters.folder.iterdir())) == 3
    assert not any(adapters.used.values())
