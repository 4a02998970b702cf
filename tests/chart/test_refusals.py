"""Values that cannot work are refused before anything is installed, and the words say why."""

from collections.abc import Callable

import pytest

from tests.chart.rendering import EXAMPLES, Manifest, Refused

POOL = '{"name": "a100", "memoryGiB": 80, "always": 1, "work": {"sizeGiB": 1}'


@pytest.mark.parametrize(
    ("example", "values", "words"),
    [
        ("minimal", ('storage.claim.accessMode="ReadWriteOnce"',), ("only one node can mount",)),
        ("minimal", ('storage.claim.size=""',), ("storage has 0 of", "Set exactly one")),
        ("airgapped", ('storage.url="s3://bucket"',), ("storage has 2 of",)),
        ("minimal", ("api.maxReplicas=1",), ("api.maxReplicas is 1, less than", "which is 2")),
        ("trial", (f"workers.pools=[{POOL}}}, {POOL}}}]",), ('two pools named "a100"',)),
        ("mig", ("workers.pools[0].always=0",), ('"mig-1g-10gb" of workers.pools has no workers',)),
        ("trial", ('workers.pools[0].name="none"',), ("/workers/pools/0/name",)),
        ("trial", ('workers.pools[0].name="A 100"',), ("/workers/pools/0/name", "pattern")),
        ("trial", ('workers.pools=[{"name": "a"}]',), ("missing properties 'memoryGiB', 'work'",)),
        ("trial", ("workers.pools[0].gpus=2",), ("'gpus' not allowed",)),
        ("trial", ("workers.graceSeconds=5",), ("/workers/graceSeconds", "minimum")),
        ("trial", ("settings.server.TUNERY_LEASE_SECOND=60",), ("'TUNERY_LEASE_SECOND' not",)),
        ("trial", ('settings.server.TUNERY_LEASE_SECONDS="1m"',), ("got string, want number",)),
        ("trial", ('settings.server.TUNERY_SECRET="x"',), ("'TUNERY_SECRET' not allowed",)),
        ("trial", ('settings.worker.TUNERY_POOL="x"',), ("'TUNERY_POOL' not allowed",)),
    ],
)
def test_what_cannot_work_is_refused(
    helm: Callable[..., list[Manifest]],
    example: str,
    values: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    with pytest.raises(Refused) as refused:
        helm(EXAMPLES[example], *values)
    assert all(one in str(refused.value) for one in words), refused.value
