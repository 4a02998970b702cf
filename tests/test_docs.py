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


def test_each_link_within_the_documents_leads_somewhere() -> None:
    broken = [
        (page.name, target)
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#]*)#?[^)]*\)", page.read_text())
        if target and ":" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
