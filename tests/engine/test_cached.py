"""Data that has been read before: by whom, with what, and how much of it is kept."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine.data.cached import KnownData, Name
from worker.engine.data.reading import TokenRows, read_data
from worker.engine.model.base import read_folder
from worker.engine.training import prepare
from worker.protocol import Train

MakeOrder = Callable[..., Train]
Rows = list[dict[str, Any]]
Read = Callable[..., TokenRows]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kind of each file that has really been read."""
    reads: list[str] = []

    def read(kind: Any, *args: Any, **how: Any) -> TokenRows:
        reads.append(kind)
        return read_data(kind, *args, **how)

    monkeypatch.setattr(prepare, "read_data", read)
    return reads


@pytest.fixture
def read(tiny: Path, make_order: MakeOrder, rows: Rows, tmp_path: Path) -> Read:
    """The rows of a job on always the same file."""
    known = KnownData()

    def training_rows(
        *, project_id: str | None = "project-1", base: Path = tiny, **settings: Any
    ) -> TokenRows:
        order = make_order(rows, **settings).model_copy(update={"project_id": project_id})
        folder = read_folder(base, "r1", tmp_path)
        objective = prepare.objective_of(order.spec, folder)
        data, _ = prepare.read_files(order, objective, folder, known, lambda: None)
        return data

    return training_rows


def same(one: TokenRows, other: TokenRows) -> bool:
    return one.facts() == other.facts() and all(
        a.line == b.line
        and torch.equal(a.ids, b.ids)
        and torch.equal(a.trained, b.trained)
        and a.reference is b.reference is None
        for a, b in zip(one.rows, other.rows, strict=True)
    )


def test_a_file_is_read_once_and_what_a_job_does_to_its_rows_stays_its_own(
    read: Read, reads: list[str]
) -> None:
    fresh = read(project_id=None)
    for _ in range(3):
        known = read()
        assert same(known, fresh)
        known.rows[0].ids.zero_()
        known.rows = known.rows.with_reference(torch.zeros(len(known.rows), 2))
    assert len(reads) == 2


def test_the_same_file_of_another_project_is_read_anew(read: Read, reads: list[str]) -> None:
    for project_id in ("project-1", "project-2", None, None):
        read(project_id=project_id)
    assert len(reads) == 4


def test_another_length_and_another_template_are_read_anew(
    read: Read, reads: list[str], tiny: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(tiny, tmp_path / "changed")
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|>>"))
    read()
    assert max(len(row.ids) for row in read(max_length=64).rows) == 64
    read(base=changed)
    assert read(train_on_inputs=True).rows.trained_tokens > read().rows.trained_tokens
    read(overflow="split")
    assert len(reads) == 5


def test_what_was_used_longest_ago_makes_way(read: Read) -> None:
    data, reads = read(), []
    known = KnownData(limit=2 * data.bytes)

    def ask(file: str) -> None:
        def note() -> TokenRows:
            reads.append(file)
            return data

        name = Name("project-1", file, "t", 256, "supervised", False, "cut")
        known.rows(name, "training", note)

    for file in ("a", "b", "a", "c", "a", "b"):
        ask(file)
    assert reads == ["a", "b", "c", "b"]
