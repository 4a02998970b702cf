"""Named places where a crash would be most harmful, so that a test can crash there.

`failpoint` does nothing until a test arms its name in the same process. Nothing outside a process
can arm one: no setting, no request.
"""

from collections.abc import Callable

armed: dict[str, Callable[[], None]] = {}


def failpoint(name: str) -> None:
    """Marks a place. What a test has armed under `name` happens here."""
    if action := armed.get(name):
        action()
