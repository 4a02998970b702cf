"""How long it takes from an order to its first step, of a real engine over its real pipes."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.arms import PATIENCE, train
from benchmarks.gpu.bases import base_folder
from benchmarks.gpu.report import Table
from benchmarks.gpu.sizes import Size
from benchmarks.workloads import Workload, short_chats, write_lines
from tunery.plan.memory import Precision
from worker.settings import engine_environment
from worker.warm_engine import WarmEngine, real_engine

WARM_JOBS = 5
ROWS = 16


def start(size: Size, weights: Path, name: str) -> None:
    """Jobs of one step. The weights have just been written and lie in the page cache."""
    columns = {"from": "", "base": "", "runs": "d", "median s": ".2f", "most s": ".2f", "note": ""}
    notes = (
        "Wall-clock seconds to the first optimizer step's report; the base's file is in the page "
        "cache. A cold engine has been ready and has loaded nothing."
    )
    folder = base_folder(size.large, weights)
    with (
        tempfile.TemporaryDirectory() as made,
        Table(name, f"From an order to its first step: {folder.name}", columns, notes) as table,
    ):
        jobs = Jobs(folder, Path(made))
        orders: tuple[tuple[str, Precision], ...] = (
            ("an order to a cold engine", "none"),
            ("an order to a cold engine, which quantizes the base and keeps a copy", "nf4"),
            ("an order to a cold engine, which reads that copy", "nf4"),
        )
        for what, quantization in orders:
            engine, imports = jobs.engine()
            try:
                cold = jobs.first_step(engine, quantization)
                warm = [jobs.first_step(engine, quantization) for _ in range(WARM_JOBS)]
            finally:
                engine.kill()
            table.row("the engine's start to its word that it is ready", "", 1, *[imports] * 2, "")
            table.row(what, quantization, 1, cold, cold, jobs.copies())
            figures = (len(warm), statistics.median(warm), max(warm))
            table.row("an order to a warm engine", quantization, *figures, "")


class Jobs:
    """One-step jobs in `folder`, which share what engines keep."""

    def __init__(self, base: Path, folder: Path) -> None:
        file = write_lines(folder / "rows.jsonl", short_chats(ROWS, seed=1))
        self.workload = Workload("one step", base, file, ROWS)
        self.folder, self.count = folder, 0
        self.cache = folder / "cache"
        self.cache.mkdir()

    def engine(self) -> tuple[WarmEngine, float]:
        """A fresh one that is ready, and the seconds that it took."""
        began = time.monotonic()
        engine = real_engine(engine_environment(), self.folder / "log")
        engine.start()
        while engine.look() is None:
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"the engine is not ready: {engine.log_tail()}")
            time.sleep(0.01)
        return engine, time.monotonic() - began

    def first_step(self, engine: WarmEngine, quantization: Precision) -> float:
        self.count += 1
        order = self.workload.order(self.folder / str(self.count))
        spec = order.spec.model_copy(update={"quantization": quantization})
        order = order.model_copy(update={"spec": spec, "cache": self.cache})
        return train(engine, order, time.monotonic()).first_step

    def copies(self) -> str:
        kept = [path for path in self.cache.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in kept)
        return f"{size / 2**30:.2f} GiB of copies kept" if kept else "no copy kept"
