"""The server's settings, read once from the environment and passed on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from api.roles import Roles, read_roles
from tunery import hub, log_lines
from tunery.data.check import MOST_ROWS
from tunery.messages import POOL_NAME

# Without encryption only on this machine, for trials.
SafeUrl = r"^(https://[^\s?#]+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/[^\s?#]*)?)$"
BUCKET = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9][A-Za-z0-9._/-]*?))?/*"
)
Endpoint = Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$")]

HubPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._*?-]+(/[A-Za-z0-9._*?-]+)?$")]


def patterns(written: object) -> object:
    """Those between the commas of a text."""
    if not isinstance(written, str):
        return written
    return tuple(filter(None, (one.strip() for one in written.split(","))))


# What metrics call that of which no pool is.
NO_POOL = "none"


class Pool(BaseModel):
    """Machines of one kind, as many as something outside starts: what is counted to it, scales it.
    The memory is that of each GPU; what its workers have told counts more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=POOL_NAME)
    # A number, or a text like "80GiB".
    memory_bytes: ByteSize
    # How many of them a worker offers to one training.
    gpus: int = Field(default=1, ge=1, le=64)
    # What a device costs, for reports on usage.
    price_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")


def json_of(written: object) -> object:
    if not isinstance(written, str):
        return written
    try:
        return json.loads(written)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error


def named_once(pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    seen = {NO_POOL}
    for pool in pools:
        if pool.memory_bytes <= 0:
            raise ValueError(f"pool {pool.name} has no memory")
        if pool.name in seen:
            what = "is reserved" if pool.name == NO_POOL else "is there twice"
            raise ValueError(f"the name {pool.name} {what}")
        seen.add(pool.name)
    return pools


Pools = Annotated[
    tuple[Pool, ...],
    Field(max_length=64),
    NoDecode,
    BeforeValidator(json_of),
    AfterValidator(named_once),
]


@dataclass(frozen=True)
class Bucket:
    """A bucket in an S3-compatible object storage. What is ours there begins with the prefix; an
    empty one is the whole bucket.
    """

    name: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".removesuffix("/")


def at(written: object) -> object:
    """A folder, or `s3://BUCKET/PREFIX`."""
    if not isinstance(written, str) or "://" not in written:
        return written
    found = BUCKET.fullmatch(written)
    if found is None:
        raise ValueError("write a folder's path, or s3://BUCKET or s3://BUCKET/PREFIX")
    return Bucket(found[1], (found[2] or "").rstrip("/"))


def storage_place(written: str) -> Path | Bucket:
    """Of a command line."""
    found = at(written)
    return found if isinstance(found, Bucket) else Path(written)


class DatabaseSettings(BaseSettings):
    """All that a migration needs."""

    model_config = SettingsConfigDict(
        env_prefix="TUNERY_",
        # Compose hands over what is not set as empty.
        env_ignore_empty=True,
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr = Field(validation_alias="DATABASE_URL")
    # For `python -m api.admin create-login`; None: a new one.
    login_password: SecretStr | None = None


class Settings(DatabaseSettings):
    """`DATABASE_URL`, `REDIS_URL`, and `TUNERY_...` for the rest. See `.env.example`."""

    # None: no Celery; workers poll.
    redis_url: SecretStr | None = Field(default=None, validation_alias="REDIS_URL")
    storage: Annotated[Path | Bucket, BeforeValidator(at)]
    # Of a bucket: the server's address (None: AWS), and how it is asked. Who can reach it only at
    # another address is given that one in links.
    s3_endpoint: Endpoint | None = None
    s3_public_endpoint: Endpoint | None = None
    s3_region: str = "us-east-1"
    s3_path_style: bool = False
    # Who is given links to the bucket itself; all others get the bytes from the API.
    s3_links: Literal["everyone", "workers", "nobody"] = "everyone"
    # With a bucket: where what comes in is kept until it is sent, and copies of what is read here
    # (None: in the system's folder for such), and how many bytes of copies.
    storage_cache: Path | None = None
    storage_cache_bytes: int = Field(default=16 << 30, ge=0)
    # Signs lease secrets and storage links; at least 32 characters.
    secret: SecretStr = Field(min_length=32)
    lease_seconds: float = Field(default=60, gt=0)
    sweep_seconds: float = Field(default=5, gt=0)
    # The first pause before a failed attempt is tried again; it doubles with each one in vain.
    retry_seconds: float = Field(default=5, gt=0)
    # How long a worker whose machine failed two jobs in a row is given none.
    quarantine_seconds: float = Field(default=900, ge=0)
    max_file_bytes: int = Field(default=8 << 30, gt=0)
    # Up to this size the upload's answer waits for the check.
    check_at_once_bytes: int = Field(default=16 << 20, ge=0)
    # What a project may send in a minute (0: anything), and have, where its own limits say nothing
    # else.
    requests_per_minute: int = Field(default=6_000, ge=0)
    project_files: int = Field(default=100_000, ge=0)
    project_stored_bytes: int = Field(default=1 << 40, ge=0)
    project_unfinished_jobs: int = Field(default=10_000, ge=0)
    project_running_jobs: int | None = Field(default=None, ge=0)
    # For trials: webhooks also to addresses that are not public, and over plain http.
    webhooks_to_private_addresses: bool = False
    # Weights & Biases, for all projects: an address of their own might lead into this network.
    wandb_url: str = Field(default="https://api.wandb.ai", pattern=r"^https?://[^\s/]+/?$")
    # The model hub, by the names that its own tools have. It is asked for base models only when an
    # operator registers one by its name, or a job names one that `hub_models` allows; offline:
    # never.
    hf_endpoint: hub.Endpoint = Field(default=hub.PUBLIC, validation_alias="HF_ENDPOINT")
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")
    hf_hub_offline: bool = Field(default=False, validation_alias="HF_HUB_OFFLINE")
    # What a job may name that is not registered yet, as patterns with * between commas.
    hub_models: Annotated[tuple[HubPattern, ...], NoDecode, BeforeValidator(patterns)] = ()
    # How many requests of a project may be open at once (streams, downloads and what waits for its
    # turn included), in each API process.
    requests_at_once: int = Field(default=128, ge=1)
    # How many answers of models a project may wait for at once, and how long for a worker.
    answers_at_once: int = Field(default=32, ge=0)
    answer_wait_seconds: float = Field(default=60, gt=0)
    # Where workers run that are started on demand, the cheapest first. None: one pool, `default`,
    # whose devices may be any.
    pools: Pools = ()
    # How many files each janitor checks at once; of one project at most all but one of them.
    checks_at_once: int = Field(default=2, ge=1)
    # Of a calendar month in UTC; None: any number.
    project_device_hours: int | None = Field(default=None, ge=0)
    # The budget of a month, in the currency of the pools' prices; None: none.
    project_cost: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    # After how many days things go by themselves; None: never.
    keep_files_days: float | None = Field(default=None, ge=1)
    keep_events_days: float | None = Field(default=None, ge=1)
    keep_deleted_days: float | None = Field(default=None, ge=1)
    # Of the audit, the last 30 days are always kept.
    keep_audit_days: float | None = Field(default=None, ge=30)
    # Checkpoints of jobs that came to no model.
    keep_checkpoints_days: float | None = Field(default=30, ge=1)
    # How the process tells its log, and how much.
    log: log_lines.Form = "text"
    log_level: log_lines.Level = "info"
    # Where jobs' traces go, by OpenTelemetry's own name; None: nowhere.
    otel_endpoint: str | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT", pattern=r"^https?://"
    )
    # The most rows of a data set. Each takes some 30 bytes of a worker beside its tokens.
    max_file_rows: int = Field(default=MOST_ROWS, gt=0)
    # People sign in to the console at this OpenID Connect provider; None: by keys alone.
    # `public_url` is where browsers find this service: the provider sends them back there.
    oidc_issuer: str | None = Field(default=None, pattern=SafeUrl)
    oidc_client_id: str | None = Field(default=None, min_length=1)
    oidc_client_secret: SecretStr | None = Field(default=None, min_length=1)
    oidc_name: str | None = Field(default=None, max_length=40)
    oidc_scopes: str = Field(default="openid profile email", pattern=r"^(.* )?openid( .*)?$")
    # Claims whose values are a person's groups, and what those may do.
    oidc_groups_claim: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(patterns), Field(min_length=1)
    ] = ("groups",)
    oidc_roles: Annotated[Roles, NoDecode, BeforeValidator(read_roles)] = Field(
        default_factory=dict
    )
    # How long a person stays signed in: their groups are read again then.
    oidc_session_hours: float = Field(default=12, gt=0, le=168)
    public_url: str | None = Field(default=None, pattern=SafeUrl)

    @property
    def currency(self) -> str | None:
        """Of the pools' prices; None: no pool has one."""
        return next((one.currency for one in self.pools if one.price_per_hour is not None), None)

    def price_of(self, pool: str) -> tuple[float | None, str | None]:
        """What a device of the pool costs an hour now, and in which currency; two None: nothing."""
        prices = {one.name: one.price_per_hour for one in self.pools}
        price = prices.get(pool)
        return price, None if price is None else self.currency

    @model_validator(mode="after")
    def _money_is_one_kind(self) -> "Settings":
        """Raises `ValueError` for prices that cannot be added up, and for a budget without any."""
        priced = {one.currency for one in self.pools if one.price_per_hour is not None}
        if len(priced) > 1:
            raise ValueError(
                f"TUNERY_POOLS has prices in {' and '.join(sorted(priced))}. Write all in one "
                "currency"
            )
        if self.project_cost is not None and not priced:
            raise ValueError("TUNERY_PROJECT_COST needs prices: price_per_hour in TUNERY_POOLS")
        return self

    @model_validator(mode="after")
    def _people_can_sign_in(self) -> "Settings":
        """Raises `ValueError` where what signing in needs is missing, or would be for nothing."""
        needs = ("oidc_client_id", "public_url", "oidc_roles")
        if self.oidc_issuer:
            missing = [name for name in needs if not getattr(self, name)]
            if missing:
                names = ", ".join(f"TUNERY_{name.upper()}" for name in missing)
                raise ValueError(f"TUNERY_OIDC_ISSUER needs {names} too")
        elif self.oidc_client_id or self.oidc_client_secret or self.oidc_roles:
            raise ValueError(
                "TUNERY_OIDC_... says how people sign in, and TUNERY_OIDC_ISSUER where"
            )
        return self

    @property
    def folder(self) -> Path:
        """The storage folder of an installation that has one."""
        if isinstance(self.storage, Bucket):
            raise TypeError(f"{self.storage} is no folder")
        return self.storage
