"""What an operator should know of an installation, as far as the API can see it: each check looks
at one thing, and says what is wrong with it and how to fix it.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import httpx
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.db import invariants, logins, revision
from api.db.session import Database
from api.settings import Settings
from api.storage.storage import Storage
from api.workers import workers
from tunery.errors import WrongSchema
from tunery.findings import Finding, ok, warn, wrong
from tunery.messages import PROTOCOL

SILENT_SECONDS = 60
# An API and its database further apart than that tell times that do not fit together.
APART_SECONDS = 2.0
LITTLE_BYTES, TOO_LITTLE_BYTES = 20 * 10**9, 10**9
HUB_SECONDS = 3.0
FEWEST_SECRET_CHARACTERS = 10


def look(db: Database, storage: Storage, settings: Settings) -> list[Finding]:
    """All findings. The hub is asked when no transaction is open any more."""
    found = [*schema(db), *of_storage(storage), *secret(settings)]
    with db.as_control() as tx:
        for check in OF_DATABASE:
            found += check(tx)
        found += of_workers(tx, settings)
    return [*found, *hub(settings)]


def schema(db: Database) -> Iterator[Finding]:
    try:
        revision.require_current(db)
    except WrongSchema as error:
        yield wrong("schema", error.message, "Migrate with the version that is to run.")
    else:
        yield ok("schema", f"The database is at schema {revision.revisions()[-1]}.")


def database(tx: Session) -> Iterator[Finding]:
    began = time.time()
    row = tx.execute(
        text("""
            SELECT current_setting('server_version') AS version,
                extract(epoch FROM clock_timestamp()) AS clock,
                current_setting('max_connections')::int AS most,
                (SELECT sum(numbackends) FROM pg_stat_database)::int AS now
        """)
    ).one()
    yield ok("database", f"Postgres {row.version} answers.")
    apart = float(row.clock) - (began + time.time()) / 2
    if abs(apart) > APART_SECONDS:
        yield warn(
            "clock",
            f"The clocks of the database and of this API are {abs(apart):.0f} s apart.",
            "Have both machines set their clocks by NTP.",
        )
    else:
        yield ok("clock", "The clocks of the database and of this API agree.")
    if row.now > 0.9 * row.most:
        yield warn(
            "connections",
            f"{row.now} of the database's {row.most} connections are in use.",
            "Raise max_connections: each API and each janitor opens up to 38.",
        )
    else:
        yield ok("connections", f"{row.now} of the database's {row.most} connections are in use.")
    if logins.has_too_many_rights(tx):
        yield warn(
            "login",
            "API and janitor log in to the database as a superuser or as the tables' owner.",
            "Give them what `python -m api.admin create-login` prints as DATABASE_URL.",
        )
    else:
        yield ok("login", "The API's login owns nothing in the database.")


def rules(tx: Session) -> Iterator[Finding]:
    broken = {name: count for name, count in invariants.violations(tx).items() if count}
    if broken:
        told = ", ".join(f"{name} ({count})" for name, count in broken.items())
        yield wrong(
            "rows",
            f"Rows break rules that must always hold: {told}.",
            "Keep the logs of API and janitor, and report it. If rows were changed by hand or "
            "restored in part, restore a whole backup.",
        )
    else:
        yield ok("rows", f"The rows keep all {len(invariants.INVARIANTS)} rules.")


def janitor(tx: Session) -> Iterator[Finding]:
    rows = tx.execute(
        text("""
            SELECT version, wakes, redis_trouble, extract(epoch FROM now() - seen_at) AS silence
            FROM janitor ORDER BY seen_at DESC
        """)
    ).all()
    there = [row for row in rows if row.silence < SILENT_SECONDS]
    if not there:
        silence = f"for {rows[0].silence:.0f} s" if rows else "in the last day"
        yield wrong(
            "janitor",
            f"No janitor has been heard of {silence}: workers are not woken, lost jobs are not "
            "rescued, large files are not checked, webhooks wait.",
            "Start one (`docker compose up -d janitor`, else `python -m api.janitor`); its log "
            "says why it ended.",
        )
        return
    own = version("tunery")
    others = sorted({row.version for row in there} - {own})
    if others:
        yield warn(
            "janitor",
            f"A janitor of version {', '.join(others)} runs; this API is {own}.",
            "Run the same version of both.",
        )
    else:
        yield ok("janitor", f"{len(there)} at work.")
    troubles = [row.redis_trouble for row in there if row.redis_trouble]
    if troubles:
        yield wrong(
            "redis",
            f"The janitor cannot wake workers: {troubles[0]}",
            "Start Redis, or correct REDIS_URL in the janitor's settings. Workers that poll need "
            "none.",
        )
    elif any(row.wakes for row in there):
        yield ok("redis", "The janitor wakes workers.")
    else:
        yield ok("redis", "The janitor has no REDIS_URL: workers ask the API for work.")


def of_workers(tx: Session, settings: Settings) -> Iterator[Finding]:
    by_state: dict[str, list[str]] = {}
    old, lacking = [], []
    for worker, _ in workers.list_all(tx):
        state = workers.state_of(tx, worker)
        by_state.setdefault(state, []).append(worker.name)
        if state != "offline":
            old += [worker.name] if worker.protocol < PROTOCOL else []
            lacking += [f"{worker.name}: {base}" for base in worker.lacks]
    if not by_state and settings.pools:
        yield warn(
            "workers",
            "No worker is there. Of TUNERY_POOLS they are started on demand, when a job waits.",
            "If a job waits and none comes, look at what starts them, and at ft_gpu_demand in "
            "/metrics.",
        )
    elif not by_state.get("active"):
        others = ", ".join(f"{len(names)} {state}" for state, names in by_state.items())
        yield wrong(
            "workers",
            "No worker is there that takes jobs" + (f" ({others})." if others else "."),
            "Start one; `tunery doctor --worker` on its machine says what it lacks.",
        )
    else:
        yield ok("workers", f"{len(by_state['active'])} take jobs.")
    if named := by_state.get("quarantined"):
        yield warn(
            "quarantine",
            f"Failed two jobs in a row, and are given none for a while: {', '.join(named)}.",
            "Read their jobs' events; `tunery doctor --worker` on the machine checks it.",
        )
    if old:
        yield warn(
            "protocol",
            f"Of an older version: {', '.join(old)}. Newer jobs do not run there.",
            "Upgrade these workers.",
        )
    if lacking:
        yield warn(
            "bases of workers",
            f"Base models that a worker cannot load: {', '.join(lacking)}.",
            "Copy the model's folder there, or let the worker reach the hub (`lacks` in GET "
            "/v1/admin/workers names the folder).",
        )


def bases(tx: Session) -> Iterator[Finding]:
    rows = tx.execute(text("SELECT id, broken FROM base_model ORDER BY id")).all()
    broken = [f"{row.id} ({row.broken})" for row in rows if row.broken]
    if broken:
        yield wrong(
            "base models",
            f"No job starts from: {'; '.join(broken)}.",
            "Repair its files, and register it again with `tunery models add`.",
        )
    elif not rows:
        yield warn(
            "base models", "None is registered.", "Register one: tunery models add ORG/NAME."
        )
    else:
        yield ok("base models", f"{len(rows)} registered.")


def stored(tx: Session) -> Iterator[Finding]:
    faults = tx.execute(text("SELECT count(*) FROM storage_fault")).scalar_one()
    if faults:
        yield wrong(
            "stored bytes",
            f"{faults} stored files are gone or changed.",
            "The janitor's log names their keys. Restore them from a backup.",
        )
    else:
        yield ok("stored bytes", "None is known to be gone or changed.")


def webhooks(tx: Session) -> Iterator[Finding]:
    late = tx.execute(
        text("""
            SELECT extract(epoch FROM now() - min(greatest(next_at, free_at)))
            FROM webhook_delivery JOIN webhook_endpoint ON webhook_endpoint.id = endpoint_id
            WHERE state = 'pending' AND next_at <= now() AND free_at <= now()
        """)
    ).scalar_one()
    if late and late > 2 * SILENT_SECONDS:
        yield warn(
            "webhooks",
            f"One has waited for {late:.0f} s, and nothing delivers it.",
            "Is a janitor there? More janitors deliver more at once.",
        )
    else:
        yield ok("webhooks", "None waits that is due.")


def endpoints(tx: Session) -> Iterator[Finding]:
    rows = tx.execute(text("SELECT url, trouble FROM answering_endpoint ORDER BY url")).all()
    away = [f"{row.url}: {row.trouble}" for row in rows if row.trouble]
    if away:
        yield warn(
            "servers that answer",
            f"{'; '.join(away)}.",
            "Start the server, or correct its entry (/v1/admin/endpoints). Workers answer in its "
            "place.",
        )
    elif rows:
        yield ok("servers that answer", f"{len(rows)} are there.")


OF_DATABASE: tuple[Callable[[Session], Iterator[Finding]], ...] = (
    database,
    rules,
    janitor,
    bases,
    stored,
    webhooks,
    endpoints,
)


def of_storage(storage: Storage) -> Iterator[Finding]:
    if storage.is_away():
        yield wrong(
            "storage",
            "This API cannot reach its storage, or sees another one than the database knows; its "
            "log says which.",
            "Mount the right folder at TUNERY_STORAGE. Everything waits until it is back.",
        )
        return
    try:
        free = shutil.disk_usage(storage.incoming).free
    except OSError:
        yield ok("storage", "It can be reached.")
        return
    if free < LITTLE_BYTES:
        state = wrong if free < TOO_LITTLE_BYTES else warn
        yield state(
            "storage",
            f"{free / 1e9:.1f} GB are free.",
            "Enlarge the disk, or delete files, exports and jobs that nobody needs.",
        )
    else:
        yield ok("storage", f"{free / 1e9:,.0f} GB are free.")


def secret(settings: Settings) -> Iterator[Finding]:
    if len(set(settings.secret.get_secret_value())) < FEWEST_SECRET_CHARACTERS:
        yield wrong(
            "secret",
            "TUNERY_SECRET has few different characters: it can be guessed, and whoever has it "
            "can forge leases and storage links.",
            "Set it to the output of `openssl rand -hex 32` for API and janitor; secrets of "
            "webhooks and keys of trackers must then be set anew.",
        )
    else:
        yield ok("secret", "TUNERY_SECRET looks random.")


def hub(settings: Settings) -> Iterator[Finding]:
    if settings.hf_hub_offline:
        yield ok("hub", "It is not asked (HF_HUB_OFFLINE).")
        return
    try:
        httpx.head(settings.hf_endpoint, timeout=HUB_SECONDS)
    except httpx.HTTPError as error:
        yield warn(
            "hub",
            f"{settings.hf_endpoint} cannot be reached from the API ({type(error).__name__}): no "
            "base model can be registered by its name.",
            "Open the way there, name a mirror as HF_ENDPOINT, or set HF_HUB_OFFLINE=1.",
        )
    else:
        yield ok("hub", f"{settings.hf_endpoint} answers.")
