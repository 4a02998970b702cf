"""What every scenario needs: the nursery, the stores, and what an undisturbed run gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.chaos.cluster import KINDS, Cluster
from tests.chaos.judge import REPEATABLE, References, repeatable_of, settle
from tests.chaos.nursery import Nursery
from tests.chaos.stores import Stores, start_stores


@dataclass
class Bench:
    nursery: Nursery
    stores: Stores
    folder: Path
    references: References = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def cluster(self, *, workers: int = 2, **settings: Any) -> Iterator[Cluster]:
        folder = self.folder / f"cluster-{next(self.numbers)}"
        made = Cluster(self.nursery, self.stores, folder, workers=workers, **settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()

    def learn(self, *seeds: int) -> None:
        """Runs these kinds of job undisturbed, unless it has, and keeps what they gave."""
        unknown = sorted(set(seeds) - set(self.references), reverse=True)
        if not unknown:
            return
        with self.cluster() as cluster:
            runs = {seed: cluster.create(seed) for seed in unknown}
            settle(cluster)
            learnt = {seed: repeatable_of(cluster, run) for seed, run in runs.items()}
            self.references = {**self.references, **learnt}
            for seed, files in learnt.items():
                if len(files) != len(REPEATABLE):
                    raise RuntimeError(f"an undisturbed job failed: {cluster.job(runs[seed])}")


@contextmanager
def start_bench(folder: Path) -> Iterator[Bench]:
    with Nursery() as nursery, start_stores(folder) as stores:
        bench = Bench(nursery, stores, folder)
        bench.learn(*KINDS)
        yield bench
