"""What the documents say that can be looked up."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_test_that_a_document_names_is_there() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text))
    assert named
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), (path, name)
