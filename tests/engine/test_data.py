"""From a file's lines to what is trained, with the tiny model's own tokenizer and template."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tunery.data.template import ChatTokenizer, compile_template
from worker.engine.base import Base
from worker.engine.data import Batch, TokenRows, read_data
from worker.engine.errors import Untrainable
from worker.engine.train import train
from worker.protocol import Noted, Report, Train

MakeOrder = Callable[..., Train]
Run = Callable[[Train], list[Report]]
Rows = list[dict[str, Any]]
Read = Callable[..., TokenRows]


def chat(*turns: tuple[str, str] | tuple[str, str, int]) -> dict[str, Any]:
    fields = ("role", "content", "weight")
    return {"messages": [dict(zip(fields, turn, strict=False)) for turn in turns]}


@pytest.fixture
def read(base: Base, make_order: MakeOrder) -> Read:
    def read_rows(rows: Rows, max_length: int = 256) -> TokenRows:
        order = make_order(rows)
        return read_data(
            "training",
            order.training_file,
            order.spec.training_file,
            tokenizer=base.tokenizer,
            max_length=max_length,
            stop_if_asked=lambda: None,
        )

    return read_rows


def trained_text(base: Base, data: TokenRows, index: int = 0) -> str:
    """The text of the tokens that have a label."""
    labels = Batch.of(data.rows, torch.device("cpu")).labels[index]
    tokens = labels[labels != -100].tolist()
    return str(base.tokenizer.tokenizer.decode(tokens, skip_special_tokens=False))


def test_only_answers_and_the_token_that_ends_them_are_trained(base: Base, read: Read) -> None:
    data = read([chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello there."))])
    assert trained_text(base, data) == "Hello there.<|im_end|>"
    ids = data.rows[0].ids.tolist()
    bos = base.tokenizer.tokenizer.token_to_id(base.tokenizer.special["bos_token"])
    assert ids[0] == bos
    assert ids.count(bos) == 1


def test_a_message_of_weight_0_is_read_but_not_trained(base: Base, read: Read) -> None:
    wrong, right = ("assistant", "Wrong.", 0), ("assistant", "Right.")
    data = read([chat(("user", "One"), wrong, ("user", "Two"), right)])
    assert trained_text(base, data) == "Right.<|im_end|>"
    assert "Wrong." in base.tokenizer.tokenizer.decode(data.rows[0].ids.tolist())


def test_a_completion_is_trained_with_its_end_and_one_opening_token(base: Base, read: Read) -> None:
    data = read([{"prompt": "Ask: why?", "completion": " Because."}])
    assert trained_text(base, data) == " Because." + base.tokenizer.special["eos_token"]
    bos = base.tokenizer.tokenizer.token_to_id(base.tokenizer.special["bos_token"])
    assert data.rows[0].ids.tolist().count(bos) == 1


def test_a_batch_is_padded_on_the_right_and_positions_count_from_0(read: Read) -> None:
    data = read(
        [chat(("user", "a"), ("assistant", "b")), chat(("user", "a" * 40), ("assistant", "c"))]
    )
    batch = Batch.of(data.rows, torch.device("cpu"))
    short, long = (len(row.ids) for row in data.rows)
    assert batch.ids.shape == (2, long)
    assert batch.attention.tolist() == [[1] * short + [0] * (long - short), [1] * long]
    assert batch.positions.tolist() == [list(range(long))] * 2
    assert (batch.labels[0, short:] == -100).all()


def test_long_rows_are_cut_and_counted_and_rows_without_trained_tokens_left_out(
    run: Run, make_order: MakeOrder
) -> None:
    fits = chat(("user", "a"), ("assistant", "b"))
    cut = chat(("user", "a"), ("assistant", "b " * 100))
    dropped = chat(("user", "a " * 100), ("assistant", "b"))
    reports = run(make_order([fits, cut, dropped, fits], max_length=48, n_epochs=1))
    noted = reports[0]
    assert isinstance(noted, Noted)
    assert noted.level == "warn"
    assert "Longer than 48 tokens and cut at their end: 1 of 4 rows (line 2)." in noted.message
    assert "nothing to train within 48 tokens: 1 of 4 rows (line 3)." in noted.message
    assert noted.data is not None
    assert (noted.data["rows"], noted.data["cut_rows"], noted.data["dropped_rows"]) == (3, 1, 1)
    assert noted.data["tokens"] > noted.data["trained_tokens"] > 0


def test_a_file_with_nothing_left_to_train_is_the_users_failure(read: Read) -> None:
    with pytest.raises(Untrainable, match="Raise max_length") as caught:
        read([chat(("user", "a " * 100), ("assistant", "b"))], max_length=48)
    assert caught.value.code == "no_trainable_rows"


def test_rows_that_the_template_refuses_are_left_out_unless_it_refuses_all(
    read: Read, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (base.folder / "chat_template.jinja").read_text()
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    monkeypatch.setattr(base.tokenizer, "template", compile_template(strict + source))
    refused = chat(("system", "x"), ("user", "a"), ("assistant", "b"))
    data = read([chat(("user", "a"), ("assistant", "b")), refused])
    assert [line for line, _ in data.refused] == [2]
    assert "(line 2); line 2:" in data.summary()
    assert "no system" in data.summary()
    with pytest.raises(Untrainable, match="no system") as caught:
        read([refused])
    assert caught.value.code == "no_trainable_rows"


def test_a_fault_in_the_file_is_the_users_failure_and_named(read: Read) -> None:
    with pytest.raises(Untrainable, match=r"line 1: messages\[0\].role") as caught:
        read([{"messages": [{"role": "robot", "content": "x"}]}])
    assert caught.value.code == "invalid_training_file"


def test_a_file_that_is_not_the_one_named_is_refused(run: Run, make_order: MakeOrder) -> None:
    order = make_order([chat(("user", "a"), ("assistant", "b"))])
    order.training_file.write_text(order.training_file.read_text() + "\n")
    with pytest.raises(ValueError, match="not the one the job names"):
        run(order)


def test_more_tokens_than_the_base_takes_are_refused(run: Run, make_order: MakeOrder) -> None:
    with pytest.raises(Untrainable, match="Set max_length to 1024 or less") as caught:
        run(make_order([chat(("user", "a"), ("assistant", "b"))], max_length=1025))
    assert caught.value.code == "max_length_over_context"


def test_a_token_outside_the_vocabulary_is_refused_before_training(
    base: Base, make_order: MakeOrder
) -> None:
    other = replace(base, tokenizer=ChatTokenizer(base.folder))
    other.tokenizer.tokenizer.add_tokens(["zyzzyva"])
    order = make_order([chat(("user", "a"), ("assistant", "zyzzyva"))])
    with pytest.raises(Untrainable, match="Line 1 of the training file has token 1024"):
        train(order, other, lambda _: None, lambda: None)
