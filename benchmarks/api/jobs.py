"""A million jobs: what it costs to look at one, and how long any page of them takes."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from hashlib import md5
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import orjson
import psycopg

from benchmarks.api.servers import API, API_PORT, FLOOR_PORT, Servers, cost_of
from tunery.cli import service

# Every tenth job has no metadata. The pairs of the others, by how many jobs in how many have them:
# env=prod 1 in 3, region=eu 1 in 2, owner=7 1 in 1000, ticket=T-N one; and env=prod never with
# shift=night, which 1 in 3 have. One was created each second; 1 in 3 succeeded, 10 are paused, the
# others were cancelled; 1 in 1000 are on another base.
MAKE_JOBS = """
    INSERT INTO job (
        id, {columns}, model_name, base_model_id, state, created_at, finished_at, has_metadata
    )
    SELECT 'ftjob-' || substr(md5(n::text), 1, 24), {columns}, 'ft:' || n,
        CASE WHEN n %% 1000 = 7 THEN 'rare' ELSE base_model_id END,
        CASE WHEN n <= 10 THEN 'paused' WHEN n %% 3 = 0 THEN 'succeeded' ELSE 'cancelled' END,
        now() - make_interval(secs => %s - n),
        CASE WHEN n > 10 THEN now() END, n %% 10 <> 0
    FROM job, generate_series(1, %s) AS n WHERE job.id = %s ORDER BY n
"""
MAKE_METADATA = """
    INSERT INTO job_metadata (project_id, job_id, sequence, key, value)
    SELECT project_id, id, sequence, pair.key, pair.value
    FROM (SELECT *, sequence - %s AS n FROM job WHERE has_metadata AND id <> %s) AS made
    CROSS JOIN LATERAL (VALUES
        ('env', CASE WHEN n % 3 = 0 THEN 'prod' ELSE 'dev' END),
        ('region', CASE WHEN hashint8(n) % 2 = 0 THEN 'eu' ELSE 'us' END),
        ('shift', CASE WHEN n % 3 = 1 THEN 'night' ELSE 'day' END),
        ('owner', (n % 1000)::text),
        ('ticket', CASE WHEN n % 50 = 1 THEN 'T-' || n END)
    ) AS pair (key, value) WHERE pair.value IS NOT NULL
"""
OWN = {
    "id", "sequence", "state", "base_model_id", "created_at", "finished_at", "has_metadata",
    "fine_tuned_model", "model_name",
}  # fmt: skip


def make(servers: Servers, count: int) -> None:
    """Copies of a job that was created through the API, and metadata for them."""
    service.register_demo_model(f"{API}/v1", servers.admin_key, print)
    client = Client(API_PORT, servers.key)
    file = client.upload(b'{"prompt": "a", "completion": "b"}\n' * 10)
    asked = {"model": service.DEMO_MODEL, "training_file": file, "metadata": {"first": "yes"}}
    first = client.ask("POST", "/v1/fine_tuning/jobs", orjson.dumps(asked))["id"]
    with psycopg.connect(servers.database_url) as db:
        # The rows are right by the way they are made: no need to look each foreign key up.
        db.execute("SET session_replication_role = replica")
        names = db.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'job'"
        ).fetchall()
        columns = ", ".join(sorted({name for (name,) in names} - OWN))
        db.execute(MAKE_JOBS.format(columns=columns).encode(), (count, count, first))
        row = db.execute("SELECT sequence FROM job WHERE id = %s", (first,)).fetchone()
        db.execute(MAKE_METADATA.replace("% ", "%% ").encode(), (*(row or ()), first))
    with psycopg.connect(servers.database_url, autocommit=True) as db:
        db.execute("VACUUM (ANALYZE) job, job_metadata")


class Client:
    """One connection that is kept."""

    def __init__(self, port: int, key: str) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:  # noqa: ANN401
        headers = self.headers | {"content-type": kind or "application/json"}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        said = orjson.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(said)
        return said

    def upload(self, rows: bytes) -> str:
        form = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\n'
        form += b'content-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        kind = "multipart/form-data; boundary=b"
        found: str = self.ask("POST", "/v1/files", form + rows + b"\r\n--b--\r\n", kind)["id"]
        return found


def job_id(number: int) -> str:
    return "ftjob-" + md5(str(number).encode(), usedforsecurity=False).hexdigest()[:24]


def polls(servers: Servers, count: int, rounds: int) -> Iterator[str]:
    """Rows of a table: CPU per `GET /v1/fine_tuning/jobs/{id}`, beside the bare statements."""
    ours = Client(API_PORT, servers.key)
    id_ = job_id(7)
    project = ours.ask("GET", f"/v1/fine_tuning/jobs/{id_}")["organization_id"]
    floors = {
        "key, project, job": Client(FLOOR_PORT, servers.key),
        "project, job": Client(FLOOR_PORT, ""),
    }
    spent: dict[str, list[float]] = {name: [] for name in ("ours", *floors)}
    for _ in range(rounds + 1):
        for name, client in (("ours", ours), *floors.items()):
            at_floor = name != "ours"
            path = f"/job/{project}/{id_}" if at_floor else f"/v1/fine_tuning/jobs/{id_}"
            client.connection.close()  # it would be too old; it opens by itself
            with cost_of(servers.floor if at_floor else servers.api) as cost:
                for _ in range(count):
                    client.ask("GET", path)
            spent[name].append(cost.cpu / count * 1e6)
    for name in floors:
        # The first round warms both up.
        pairs = list(zip(spent[name], spent["ours"], strict=True))[1:]
        floor, cost_ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(ours / floor for floor, ours in pairs)
        yield f"| {name} | {floor:.0f} | {cost_ours:.0f} | {ratio:.2f} |"


def pages(servers: Servers, jobs: int, count: int) -> Iterator[str]:
    """Rows of a table: milliseconds that a page of 20 takes, as its client sees it. The first one
    is an answer that needs no database: so much is the machine's and the server's.
    """
    client = Client(API_PORT, servers.key)
    rng, began = random.Random(0), int(time.time())
    yield row("`GET /healthz`", "", [timed(client, "/healthz") for _ in range(count)])
    filters: dict[str, Callable[[int], dict[str, Any]]] = {
        "none": lambda _: {},
        "`env=prod`, of 1 in 3": lambda _: {"metadata[env]": "prod"},
        "`owner=N`, of 1 in 1,000": lambda n: {"metadata[owner]": str(n % 1000)},
        "`ticket=N`, of one": lambda n: {"metadata[ticket]": f"T-{n // 50 * 50 + 1}"},
        "a pair that none has": lambda n: {"metadata[env]": f"none-{n}"},
        "`metadata=null`, 1 in 10": lambda _: {"metadata": "null"},
        "two, both frequent": lambda _: {"metadata[env]": "prod", "metadata[region]": "eu"},
        "two, one rare": lambda n: {"metadata[region]": "eu", "metadata[owner]": str(n % 1000)},
        "two, frequent and never together": lambda _: {
            "metadata[env]": "prod",
            "metadata[shift]": "night",
        },
        "`status=cancelled`, 2 in 3": lambda _: {"status": "cancelled"},
        "`status=paused`, the 10 oldest": lambda _: {"status": "paused"},
        "two states, both frequent": lambda _: {"status": ["cancelled", "succeeded"]},
        "two states, both rare": lambda _: {"status": ["paused", "running"]},
        "`model`, of 1 in 1,000": lambda _: {"model": "rare"},
        "a rare model, never in that state": lambda _: {"model": "rare", "status": "paused"},
        "`created_at` before any moment": lambda n: {"created_at[lt]": began - n},
        "an hour, and a state": lambda n: {
            "created_at[gte]": began - n,
            "created_at[lt]": began - n + 3600,
            "status": "succeeded",
        },
        "`q`, of one": lambda n: {"q": job_id(n)[8:]},
        "`q` that none has": lambda n: {"q": f"none-{n}"},
    }
    for what, filter_ in filters.items():
        for deep in (False, True):
            times = []
            slow = "never" in what or "`q`" in what
            for _ in range(count // 10 if slow else count):
                number = rng.randrange(1, jobs + 1)
                asked = filter_(number) | ({"after": job_id(number)} if deep else {})
                times.append(timed(client, "/v1/fine_tuning/jobs?" + urlencode(asked, doseq=True)))
            yield row(what, "any `after`" if deep else "first", times)


def timed(client: Client, path: str) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    client.ask("GET", path)
    return (time.perf_counter() - began) * 1e3


def row(what: str, page: str, times: list[float]) -> str:
    p99 = sorted(times)[int(len(times) * 0.99)]
    return f"| {what} | {page} | {statistics.median(times):.1f} | {p99:.1f} |"
