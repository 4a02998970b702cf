"""Model hubs that speak Hugging Face's protocol: how a model there is named, how the processes that
ask a hub are started, and what its refusals mean. The hub itself is asked with `huggingface_hub`,
and in processes of their own only: it reads its settings when it is imported, and waits long.
"""

import errno
import os
import re
import sys
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tunery.errors import HubAway, InvalidRequest, NotFound, StorageFull, TuneryError

# How the `source` of a base model begins that lies in a hub's repository.
SOURCE = "hf://"
PUBLIC = "https://huggingface.co"
# Without a user's name or a password: it is told in errors.
Endpoint = Annotated[
    str,
    Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$"),
    AfterValidator(lambda url: url.rstrip("/")),
]
PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
REPOSITORY = re.compile(rf"(?=.{{1,96}}$)(?!.*(--|\.\.|\.git$)){PART}(/{PART})?")
REVISION = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The way out of this machine, which every process needs that asks a hub.
NETWORK = re.compile(r"(?i:https?_proxy|all_proxy|no_proxy|ssl_cert_(file|dir))")


def repository_of(source: str) -> str | None:
    """Of a base model's `source`; None: it lies elsewhere."""
    return source.removeprefix(SOURCE) if source.startswith(SOURCE) else None


def environment(endpoint: str, home: str) -> dict[str, str]:
    """For a process that asks the hub. It keeps what it must in the folder `home`, tells the hub
    nothing but its requests, and is told the token by its standard input: an environment can be
    read by others of the same user.
    """
    network = {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}  # noqa: TID251
    return network | {
        "PATH": os.defpath,
        # Not from the folder that it is started in.
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONSAFEPATH": "1",
        "HF_ENDPOINT": endpoint,
        "HF_HOME": home,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Xet's servers are others than the hub's, and a mirror has none.
        "HF_HUB_DISABLE_XET": "1",
    }


def in_words(error: Exception, repository: str, endpoint: str, *, has_token: bool) -> TuneryError:
    """What went wrong with a model on the hub. What a library says of it stays out: it may hold
    links that are signed.
    """
    from huggingface_hub.errors import (  # noqa: PLC0415 - an extra
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, TuneryError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return StorageFull(
            "The disk for temporary files is full, or the hub sends more than it announces "
            f"({error.strerror}); nothing was stored."
        )
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return in_words(error.__cause__, repository, endpoint, has_token=has_token)
    token = "the account of HF_TOKEN has no access to it" if has_token else "HF_TOKEN is not set"
    if isinstance(error, GatedRepoError):
        return InvalidRequest(
            f"{repository} is gated, and {token}. An operator accepts its licence on "
            f"{endpoint}/{repository} and sets HF_TOKEN to a token of that account.",
            param="model",
            code="model_gated",
        )
    if isinstance(error, RevisionNotFoundError | RemoteEntryNotFoundError):
        what = "file" if isinstance(error, RemoteEntryNotFoundError) else "revision"
        return NotFound(
            f"{repository} has no such {what} on {endpoint}. Name a commit, a tag or a branch that "
            "it has.",
            param="revision",
            code="revision_not_found",
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError | DisabledRepoError) or status in {401, 403, 404}:
        return NotFound(
            f"{endpoint} has no model {repository} (status {status}), or it is private and "
            f"{token}. Look for a misspelling.",
            param="model",
            code="model_not_found",
        )
    if status is not None:
        why = "too many requests" if status == 429 else "it is in trouble"
        return HubAway(f"{endpoint} answers {status} ({why}). Try again in a minute.")
    if is_network(error):
        return HubAway(
            f"{endpoint} does not answer ({type(error).__name__}). Try again, or have an operator "
            "look at HF_ENDPOINT and the way out of this machine."
        )
    return HubAway(
        f"{endpoint} does not answer as a model hub does ({type(error).__name__}). An operator "
        "looks at HF_ENDPOINT and the proxies on the way."
    )


def is_network(error: BaseException) -> bool:
    """Whether the connection failed, not what came over it."""
    import httpx2  # noqa: PLC0415 - comes with huggingface_hub

    return isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError)


def as_json(error: TuneryError) -> dict[str, Any]:
    """For the process that asked."""
    kind = next(each for each in KINDS if isinstance(error, each))
    return {
        "kind": kind.__name__,
        "message": error.message,
        "param": error.param,
        "code": error.code,
    }


def of_json(told: dict[str, Any]) -> TuneryError:
    kind = next(each for each in KINDS if each.__name__ == told["kind"])
    return kind(told["message"], param=told["param"], code=told["code"])


KINDS: tuple[type[TuneryError], ...] = (
    NotFound,
    InvalidRequest,
    HubAway,
    StorageFull,
    TuneryError,
)
