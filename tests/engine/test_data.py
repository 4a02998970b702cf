"""From a file's lines to what is trained, with the tiny model's own tokenizer and template."""

import resource
import signal
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.conftest import FILES
from tunery.data import bounds
from tunery.data.jinja import compile_template
from tunery.data.named_templates import CHATML
from tunery.errors import DoesNotFit
from worker.engine.data import reading as engine_data
from worker.engine.data.batches import Batch, packed
from worker.engine.data.reading import TokenRows, read_data
from worker.engine.data.rows import Rows, TokenRow
from worker.engine.errors import Untrainable
from worker.engine.model.base import Base, WarmBase
from worker.engine.train import train
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.prepare import tokenizer_of
from worker.protocol import Finished, Noted, Report, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Given = list[dict[str, Any]]
Read = Callable[..., TokenRows]


def chat(*turns: tuple[str, str] | tuple[str, str, int]) -> dict[str, Any]:
    fields = ("role", "content", "weight")
    return {"messages": [dict(zip(fields, turn, strict=False)) for turn in turns]}


@pytest.fixture
def read(base: Base, make_order: MakeOrder) -> Read:
    def read_rows(rows: Given, max_length: int = 256, **settings: Any) -> TokenRows:
        order = make_order(rows, max_length=max_length, **settings)
        return read_data(
            "training",
            order.training_file,
            order.spec.training_file,
            objective=NextToken(order.spec),
            tokenizer=tokenizer_of(order.spec, base.folder),
            max_length=max_length,
            stop_if_asked=lambda: None,
        )

    return read_rows


def trained_text(base: Base, data: TokenRows, index: int = 0) -> str:
    """The text of the tokens that have a label."""
    labels = Batch.of([data.rows[index]], torch.device("cpu")).labels.tolist()
    return str(base.folder.tokenizer.tokenizer.decode(labels, skip_special_tokens=False))


def test_only_answers_and_the_token_that_ends_them_are_trained(base: Base, read: Read) -> None:
    data = read([chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello there."))])
    assert trained_text(base, data) == "Hello there.<|im_end|>"
    ids = data.rows[0].ids.tolist()
    bos = base.folder.tokenizer.tokenizer.token_to_id(base.folder.tokenizer.special["bos_token"])
    assert ids[0] == bos
    assert ids.count(bos) == 1


def test_a_message_of_weight_0_is_read_but_not_trained(base: Base, read: Read) -> None:
    wrong, right = ("assistant", "Wrong.", 0), ("assistant", "Right.")
    data = read([chat(("user", "One"), wrong, ("user", "Two"), right)])
    assert trained_text(base, data) == "Right.<|im_end|>"
    assert "Wrong." in base.folder.tokenizer.tokenizer.decode(data.rows[0].ids.tolist())


def test_a_completion_is_trained_with_its_end_and_one_opening_token(base: Base, read: Read) -> None:
    data = read([{"prompt": "Ask: why?", "completion": " Because."}])
    assert trained_text(base, data) == " Because." + base.folder.tokenizer.special["eos_token"]
    bos = base.folder.tokenizer.tokenizer.token_to_id(base.folder.tokenizer.special["bos_token"])
    assert data.rows[0].ids.tolist().count(bos) == 1


def test_a_batch_is_its_rows_one_behind_the_other_with_positions_of_their_own() -> None:
    first = TokenRow(1, ids(5, 6, 7), torch.tensor([False, False, True]))
    second = TokenRow(2, ids(8, 9), torch.tensor([False, True]))
    batch = Batch.of([first, second], torch.device("cpu"))
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert (batch.places.tolist(), batch.labels.tolist()) == ([1, 3], [7, 9])
    assert batch.documents.lengths == (3, 2)
    assert batch.documents.bounds.tolist() == [0, 3, 5]


def ids(*tokens: int) -> Tensor:
    return torch.tensor(tokens, dtype=torch.int32)


def test_rows_are_packed_whole_into_pieces_of_the_budget() -> None:
    lengths = (3, 9, 5, 2, 4, 12, 1)
    rows = [TokenRow(n, ids(*range(n)), torch.ones(n, dtype=torch.bool)) for n in lengths]
    pieces = [[len(row.ids) for row in piece] for piece in packed(rows, 10)]
    assert pieces == [[12], [9, 1], [5, 4], [3, 2]]
    assert list(packed(rows, 36)) == [sorted(rows, key=lambda row: -len(row.ids))]
    assert [len(piece) for piece in packed(rows, 36, 3)] == [3, 3, 1]


def test_long_rows_are_cut_and_counted_and_rows_without_trained_tokens_left_out(
    run: Run, make_order: MakeOrder
) -> None:
    fits = chat(("user", "a"), ("assistant", "b"))
    cut = chat(("user", "a"), ("assistant", "b " * 100))
    dropped = chat(("user", "a " * 100), ("assistant", "b"))
    settings = {"max_length": 48, "n_epochs": 1}
    order = make_order([fits, cut, dropped, fits], max_lost_share=0.25, **settings)
    reports = run(order)
    noted = reports[0]
    assert isinstance(noted, Noted)
    assert noted.level == "warn"
    assert "Longer than 48 tokens and cut at their end: 1 of 4 rows (line 2)." in noted.message
    assert "no trainable tokens within 48 tokens: 1 of 4 rows (line 3)." in noted.message
    assert noted.data is not None
    assert (noted.data["rows"], noted.data["cut_rows"], noted.data["dropped_rows"]) == (3, 1, 1)
    assert noted.data["tokens"] > noted.data["trained_tokens"] > 0
    with pytest.raises(Untrainable, match=r"1 of 4 rows .* allows 24%\. Left out, with") as caught:
        run(make_order([fits, cut, dropped, fits], max_lost_share=0.24, **settings))
    assert caught.value.code == "rows_lost"


def test_a_file_with_nothing_left_to_train_is_the_users_failure(read: Read) -> None:
    with pytest.raises(Untrainable, match="Raise max_length") as caught:
        read([chat(("user", "a " * 100), ("assistant", "b"))], max_length=48)
    assert caught.value.code == "no_trainable_rows"


def test_rows_that_the_template_refuses_are_left_out_unless_it_refuses_all(
    read: Read, base: Base, make_order: MakeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (base.folder.path / "chat_template.jinja").read_text()
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    monkeypatch.setattr(base.folder.tokenizer, "template", compile_template(strict + source))
    refused = chat(("system", "x"), ("system", "y"), ("user", "a"), ("assistant", "b"))
    data = read([chat(("user", "a"), ("assistant", "b")), refused])
    assert data.refused == [2]
    summary = data.summary(NextToken(make_order([refused]).spec))
    assert "(line 2); line 2:" in summary
    assert "no system" in summary
    with pytest.raises(Untrainable, match="no system") as caught:
        read([refused])
    assert caught.value.code == "no_trainable_rows"


HELD = "{% set ns = namespace(held=['x']) %}"
DOUBLED = "{% for a in range(40) %}{% set ns.held = ns.held + ns.held %}{% endfor %}"


@pytest.mark.parametrize(
    ("costly", "why"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "0 sec"),
        (HELD + DOUBLED, "more memory than there is"),
    ],
)
def test_a_template_that_takes_too_much_for_a_row_is_the_users_failure(
    read: Read, monkeypatch: pytest.MonkeyPatch, costly: str, why: str
) -> None:
    monkeypatch.setattr(bounds, "RENDER_SECONDS", 0)
    monkeypatch.setattr(engine_data, "ROOM", 0.01)
    monkeypatch.setattr(engine_data, "MEMORY_LIMIT_BYTES", 64 << 20)
    rows = [chat(("user", text), ("assistant", "b")) for text in ("a", "!")]
    template = CHATML + "{% if messages[0].content == '!' %}" + costly + "{% endif %}"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(Untrainable, match=f"At line 2 of the training file the .*{why}") as caught:
        read(rows, chat_template=template)
    assert caught.value.code == "chat_template_too_costly"
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_template_that_takes_too_much_as_it_is_compiled_is_the_users_failure(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "RENDER_SECONDS", 0)
    with pytest.raises(Untrainable, match=r"training\.chat_template: .* more than 0") as caught:
        read([chat(("user", "a"), ("assistant", "b"))], chat_template="{{ 3 ** 99999999 }}" * 2)
    assert caught.value.code == "chat_template_too_costly"


def test_a_fault_in_the_file_is_the_users_failure_and_named(read: Read) -> None:
    with pytest.raises(Untrainable, match=r"line 1: messages\[0\].role") as caught:
        read([{"messages": [{"role": "robot", "content": "x"}]}])
    assert caught.value.code == "invalid_training_file"


def test_a_short_row_takes_hardly_more_memory_than_its_tokens(read: Read) -> None:
    rows = [{"text": f"a{number % 10} b"} for number in range(4_000)]
    tracemalloc.start()
    try:
        data = read(rows)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.rows) == len(rows)
    assert held / len(rows) < 100
    assert data.rows[-1].ids.equal(data.rows[9].ids)


def test_rows_are_given_back_as_they_were_added() -> None:
    added = [
        TokenRow(3, ids(5, 6, 7), torch.tensor([False, True, True]), piece=2),
        TokenRow(9, ids(8, 9), torch.tensor([False, True]), second=1),
        TokenRow(9, ids(4), torch.tensor([True]), piece=1),
    ]
    rows = Rows(added)
    for row, given in zip(rows, added, strict=True):
        assert (row.line, row.piece, row.second) == (given.line, given.piece, given.second)
        assert row.ids.equal(given.ids)
        assert row.trained.equal(given.trained)
    assert (rows.lengths.tolist(), rows.tokens, rows.trained_tokens) == ([3, 2, 1], 6, 4)
    assert (rows.lines, rows.largest_token) == (2, 9)
    rows[0].ids.zero_()
    assert rows[-3].ids.equal(added[0].ids)
    referred = rows.with_reference(torch.arange(6.0).view(3, 2))
    assert [row.reference.tolist() for row in referred[1:] if row.reference is not None] == [
        [2.0, 3.0],
        [4.0, 5.0],
    ]
    assert rows[1].reference is None


def test_rows_beyond_the_memory_that_is_there_are_refused_while_they_are_read(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_data, "available_memory", lambda: 2_000)
    with pytest.raises(DoesNotFit, match=r"too large for this worker: its rows before line \d+ "):
        read([{"text": "The sea has waves."}] * 1_000)


def test_a_file_that_is_not_the_one_named_is_refused(run: Run, make_order: MakeOrder) -> None:
    order = make_order([chat(("user", "a"), ("assistant", "b"))])
    order.training_file.write_text(order.training_file.read_text() + "\n")
    with pytest.raises(OSError, match="not the one the job names"):
        run(order)


def test_more_tokens_than_the_base_takes_are_refused(run: Run, make_order: MakeOrder) -> None:
    with pytest.raises(Untrainable, match="Set max_length to 1024 or less") as caught:
        run(make_order([chat(("user", "a"), ("assistant", "b"))], max_length=1025))
    assert caught.value.code == "max_length_over_context"


def test_a_token_outside_the_vocabulary_is_refused_before_training(
    tiny: Path, tmp_path: Path, make_order: MakeOrder
) -> None:
    others = WarmBase()
    others.open(tiny, "r1", tmp_path, FILES).tokenizer.tokenizer.add_tokens(["zyzzyva"])
    order = make_order([chat(("user", "a"), ("assistant", "zyzzyva"))])
    with pytest.raises(Untrainable, match="Line 1 of the training file has token 1024"):
        train(order, others, lambda _: None, lambda: None)
    assert others.base is None


def test_all_of_a_text_that_is_split_is_trained_once(read: Read, make_order: MakeOrder) -> None:
    """Each part begins with the last token of the one before, which it is not trained on."""
    text = {"text": "The sea has waves, and each of them goes to a shore. " * 9}
    short = {"text": "The sea."}
    [whole] = read([text], max_length=1024).rows
    data = read([short, text, short], max_length=16, overflow="split")
    parts = [row for row in data.rows if row.line == 2]
    assert [row.piece for row in parts] == list(range(len(parts)))
    assert all(len(row.ids) == 16 for row in parts[:-1])
    assert torch.cat([row.ids[row.trained] for row in parts]).equal(whole.ids[1:])
    assert all(a.ids[-1] == b.ids[0] for a, b in pairwise(parts))
    assert len(parts[-1].ids) > 1
    assert (data.split, data.cut, data.dropped) == ([2], [], [])
    summary = data.summary(NextToken(make_order([text]).spec))
    assert "Longer than 16 tokens and split into rows of at most that: 1 of 3 (line 2)." in summary
    # One that fits to the token is whole, one with one token more is not.
    for length, count in ((len(whole.ids), 1), (len(whole.ids) - 1, 2)):
        assert len(read([text], max_length=length, overflow="split").rows) == count


def test_a_job_on_texts_that_are_split_trains_all_of_them(run: Run, make_order: MakeOrder) -> None:
    texts = [{"text": "The sea has waves, and each of them goes to a shore. " * 9}] * 3
    reports = run(make_order(texts, max_length=32, overflow="split", n_epochs=1))
    noted, finished = reports[0], reports[-1]
    assert isinstance(noted, Noted)
    assert isinstance(finished, Finished)
    assert noted.data is not None
    assert (noted.level, noted.data["split_rows"], noted.data["cut_rows"]) == ("info", 3, 0)
    assert noted.data["rows"] > 3
    assert finished.trained_tokens == noted.data["trained_tokens"]
    assert "3 rows used of 3" in (finished.folder / "README.md").read_text()


def test_what_is_not_a_text_is_cut_where_texts_are_split(read: Read) -> None:
    data = read([chat(("user", "a"), ("assistant", "b " * 100))], 48, overflow="split")
    assert (len(data.rows), data.split, data.cut) == (1, [], [1])


def test_a_row_is_trained_throughout_if_its_inputs_are_too(read: Read, base: Base) -> None:
    rows = [
        chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello.")),
        {"prompt": "Ask: why?", "completion": " Because."},
    ]
    data = read(rows, train_on_inputs=True)
    assert [row.trained_tokens for row in data.rows] == [len(row.ids) - 1 for row in data.rows]
    assert "Be brief." in trained_text(base, data)


def test_reasoning_is_trained_on_unless_the_job_says_otherwise(
    make_order: MakeOrder, read: Read
) -> None:
    thinks = chat(("user", "a"), ("assistant", "<think>b</think>c"))
    plain = chat(("user", "a"), ("assistant", "c"))
    trained = {}
    for wanted in (True, False):
        data = read([thinks, plain], train_on_reasoning=wanted)
        trained[wanted] = [row.trained_tokens for row in data.rows]
        words = "trained on" if wanted else "read but not trained on"
        summary = data.summary(NextToken(make_order([plain]).spec))
        assert f"Reasoning is in 1 of 2 rows, and is {words}." in summary
    assert trained[True][0] > trained[False][0] == trained[False][1] == trained[True][1]
