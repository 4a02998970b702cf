"""`tunery validate`, as a user runs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunery.cli.main import app
from tunery.data.check import MAX_FAULTS

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo"


def validate(file: Path, *options: str | Path) -> tuple[int, str]:
    """Its exit status and what it printed."""
    result = CliRunner().invoke(app, ["validate", str(file), *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = {"user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}


def test_each_fault_is_printed_with_its_line() -> None:
    file = ROOT / "examples" / "broken.jsonl"
    status, output = validate(file)
    *faults, last, messages = output.splitlines()
    assert status == 1
    named = [line.removeprefix(f"{file}: line ").partition(":")[0] for line in faults]
    assert named == ["2", "3", "4", "5", "6", "7", "8", "10", "11", "12", "13", "14"]
    assert "messages[1].role: 'farmer' is not a role" in faults[4]
    assert last == "3 rows (3 chat), 12 faults"
    assert messages == "6 messages: 3 from user, 3 from assistant"


def test_faults_beyond_the_list_are_counted(tmp_path: Path) -> None:
    status, output = validate(write(tmp_path, *[1] * (MAX_FAULTS + 1_234)))
    assert status == 1
    assert output.endswith("… and 1,234 more\n0 rows (none), 2,234 faults\n")


def test_a_good_file_has_exit_status_0() -> None:
    assert validate(ROOT / "examples" / "pirate.valid.jsonl") == (
        0,
        "40 rows (40 chat), 0 faults\n80 messages: 40 from user, 40 from assistant\n",
    )


def test_with_a_model_tokens_are_counted_and_the_first_rows_shown(tmp_path: Path) -> None:
    status, output = validate(write(tmp_path, chat("Hi", "Ahoy")), "--model", DEMO)
    assert status == 0
    assert "line 1: <|begin_of_text|><|im_start|>user\nHi<|im_end|>\n" in output
    assert "15 tokens per epoch, 2 of them trained\n" in output
    assert "tokens per row: p5 15, p50 15, p90 15, p95 15, p99 15, max 15\n" in output


def test_a_row_gives_a_terminal_no_orders(tmp_path: Path) -> None:
    _, output = validate(write(tmp_path, chat("\x1b]0;mine\x07", "Ahoy")), "--model", DEMO)
    assert "user\n\ufffd]0;mine\ufffd<|im_end|>\n" in output


def test_with_a_model_cut_rows_are_counted(tmp_path: Path) -> None:
    rows = [chat("Hi", "Ahoy"), chat("Hi", "word " * 2_000), chat("word " * 2_000, "Ahoy")]
    status, output = validate(write(tmp_path, *rows), "--model", DEMO)
    assert status == 0
    assert (
        "1 rows are left out: they have no trainable token within 1,024 tokens (line 3)" in output
    )
    assert "1 rows are longer than 1,024 tokens and are cut there (line 2)" in output


def test_the_whole_report_is_printed_as_json_of_a_length_of_ones_own(tmp_path: Path) -> None:
    file = write(tmp_path, chat("Hi", "Ahoy there!"))
    status, output = validate(file, "--model", DEMO, "--max-length", "14", "--json")
    report = json.loads(output)
    assert (status, report["ok"], report["fault_count"]) == (0, True, 0)
    assert (report["tokens"]["max_length"], report["tokens"]["cut"]["lines"]) == (14, [1])
    status, output = validate(file, "--model", DEMO, "--max-length", "2000")
    assert (status, output) == (
        1, "tunery: the model takes 1,024 tokens; --max-length is at most that.\n"
    )  # fmt: skip
    assert validate(file, "--max-length", "14")[0] == 2


def test_the_template_of_a_job_can_be_tried_by_its_name_or_in_a_file(tmp_path: Path) -> None:
    file, ours = write(tmp_path, chat("Hi", "Ahoy")), tmp_path / "ours.jinja"
    ours.write_text("{% for each in messages %}<{{ each.content }}>{% endfor %}")
    wanted = {"vicuna": "line 1: USER: Hi ASSISTANT: Ahoy", str(ours): "<Hi><Ahoy>"}
    for named, shown in wanted.items():
        status, output = validate(file, "--model", DEMO, "--chat-template", named)
        assert (status, shown in output, "Warning: The chat" in output) == (0, True, False), output
    _, output = validate(file, "--model", DEMO, "--chat-template", "llama3")
    assert "Warning: The chat template writes `<|start_header_id|>`" in output
    status, output = validate(file, "--model", DEMO, "--chat-template", "nobody's")
    assert (status, "take one of alpaca, chatml" in output) == (1, True)
    assert validate(file, "--chat-template", "vicuna")[0] == 2


def test_a_row_that_the_template_refuses_is_named_and_left_out_as_in_training(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    strict = "{% if messages[0]['content'] == 'No' %}{{ raise_exception('never') }}{% endif %}"
    template = model / "chat_template.jinja"
    template.write_text(strict + template.read_text())
    file = write(tmp_path, chat("Hi", "Ahoy"), chat("No", "Ahoy"))
    status, output = validate(file, "--model", model)
    assert status == 0
    assert "1 rows are left out: the model's template rejects them (line 2)" in output
    assert "line 2: the base model's chat template refuses the row: never" in output


@pytest.mark.parametrize(
    ("template", "reason"),
    [(None, "has no config.json"), ("{% if %}", "chat template is broken")],
)
def test_a_model_that_cannot_be_read_is_refused_in_words(
    tmp_path: Path, template: str | None, reason: str
) -> None:
    model = tmp_path / "model"
    if template:
        shutil.copytree(DEMO, model)
        (model / "chat_template.jinja").write_text(template)
    status, output = validate(write(tmp_path, chat("Hi", "Ahoy")), "--model", model)
    assert status == 1
    assert reason in output
