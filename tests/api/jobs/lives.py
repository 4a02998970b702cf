"""What must be of jobs, claims and workers, in a few fields, and the parts that act on them."""

from dataclasses import dataclass, field

from api.db.session import Database
from api.settings import Settings
from api.storage.folder import Folder
from tunery.facts import FileFacts


@dataclass(repr=False)
class DataFile:
    number: int
    id: str
    status: str = "uploaded"

    def __repr__(self) -> str:
        return f"<file {self.number}>"


@dataclass(repr=False)
class Life:
    """What a job must be. `ready` is since when it may be claimed; `steps` those it has metrics of;
    `checkpoints` says for each step whose claim wrote it.
    """

    number: int
    id: str
    files: list[DataFile]
    infra: int
    state: str = "validating_files"
    desired: str = "run"
    token: int = 0
    idle: int = 0
    interrupted: int = 0
    oom: int = 0
    failure: str | None = None
    ready: int | None = None
    checkpoints: dict[int, int] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"<job {self.number}>"


@dataclass(repr=False)
class Claim:
    """`end` is how it ended, None while it is live."""

    job: Life
    token: int
    worker: str
    expired: bool = False
    end: str | None = None
    sent: int = 0

    def __repr__(self) -> str:
        return f"<claim {self.token} of {self.job}, by {self.worker}>"


@dataclass
class Machine:
    draining: bool = False
    quarantined: bool = False
    failures: int = 0
    failed: Life | None = None


@dataclass
class World:
    """The parts the steps act on. A lease is so long that none runs out by itself."""

    db: Database
    storage: Folder
    settings: Settings
    project_id: str

    def store(self, key: str, content: bytes, name: str = "data") -> FileFacts:
        with self.storage.receive(limit=100) as incoming:
            incoming.write(content)
            incoming.keep(key.format(sha256=incoming.digest))
            return FileFacts(name=name, bytes=len(content), sha256=incoming.digest)
