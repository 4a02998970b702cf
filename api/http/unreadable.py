"""Rows that cannot be shown as they are: written by another version of the service, or by hand. One
such row takes nothing else down. It is logged, counted for operators, and left out or shown with
less.
"""

import logging
from collections import Counter

from pydantic import ValidationError

log = logging.getLogger(__name__)

# What is raised by whoever reads JSON of another shape than expected.
Misshapen = (ValidationError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# By the kind of row, since this process began.
found: Counter[str] = Counter()


def note(kind: str, which: str, error: Exception) -> None:
    found[kind] += 1
    log.error("%s %s cannot be read as it is stored", kind, which, exc_info=error)
