"""What groups of people may do in which projects, as `TUNERY_OIDC_ROLES` says it:
`{"research": "dairy:write", "sales": ["dairy:read", "trials:write"], "ops": "*:admin"}`.
"""

import json
import re
from typing import NamedTuple

EVERYBODY = "*"
EVERY_PROJECT = "*"
# Each includes those before it. Keys have them as scopes.
ROLES = ("read", "write", "admin")
GRANT = re.compile(rf"(\*|[A-Za-z0-9][A-Za-z0-9._-]{{0,62}}):({'|'.join(ROLES)})")


class Grant(NamedTuple):
    """A role in the project of this name, or in every project."""

    project: str
    role: str

    @property
    def scopes(self) -> tuple[str, ...]:
        return ROLES[: ROLES.index(self.role) + 1]


Roles = dict[str, tuple[Grant, ...]]


def read_roles(written: object) -> object:
    """By group. Raises `ValueError`, in words."""
    if isinstance(written, str):
        try:
            written = json.loads(written)
        except ValueError as error:
            raise ValueError(f'write JSON, as {{"GROUP": "PROJECT:ROLE"}} ({error})') from error
    if not isinstance(written, dict):
        raise ValueError('write a JSON object, as {"GROUP": "PROJECT:ROLE"}')  # noqa: TRY004
    found: Roles = {}
    for group, granted in written.items():
        each = granted if isinstance(granted, list | tuple) else [granted]
        found[group] = tuple(
            one if isinstance(one, Grant) else read_grant(group, one) for one in each
        )
    return found


def read_grant(group: str, written: object) -> Grant:
    named = GRANT.fullmatch(written) if isinstance(written, str) else None
    if named is None:
        raise ValueError(
            f"{group!r} has {written!r}; write PROJECT:ROLE, or a list of such. PROJECT is a name, "
            f"or {EVERY_PROJECT} for all; ROLE is {', '.join(ROLES[:-1])} or {ROLES[-1]}"
        )
    grant = Grant(named[1], named[2])
    if grant.role == "admin" and grant.project != EVERY_PROJECT:
        raise ValueError(
            f"{group!r} has {written!r}, and every admin runs the whole service. Write "
            f"'{EVERY_PROJECT}:admin', or '{grant.project}:write'"
        )
    return grant
