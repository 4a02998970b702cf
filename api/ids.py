"""Ids: OpenAI's prefixes, then 24 random letters and digits (142 bits)."""

import secrets
import string

LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(LETTERS) for _ in range(24))
