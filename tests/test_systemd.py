"""The units for systemd, as systemd itself reads them. None runs here: that takes a machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from tests.conftest import ROOT
from tunery.cli.main import app
from tunery.cli.worker import GRACE_SECONDS, SPARE_SECONDS

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
TUNERY = "/opt/tunery/bin/tunery"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(TUNERY, "/bin/true"))
    copies = [str(tmp_path / unit.name) for unit in UNITS]
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_there_is_and_waits_for_its_end(unit: Path) -> None:
    text = unit.read_text()
    (words,) = re.findall(rf"^ExecStart={TUNERY} (.+)$", text, re.MULTILINE)
    name, *arguments = words.split()
    command = get_command(app).get_command(None, name)  # type: ignore[attr-defined]
    command.make_context(name, arguments)
    (stops,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stops) > GRACE_SECONDS + SPARE_SECONDS
