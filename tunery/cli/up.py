"""`tunery up`: the whole service in the foreground."""

import sys
from pathlib import Path

from rich.console import Console

from tunery.cli.embedded import EmbeddedError
from tunery.cli.service import ServiceFault, running
from tunery.cli.supervisor import ServiceError


def run(data_dir: Path, port: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    try:
        with running(data_dir, port, console.print) as service:
            console.print(f"\nbase URL  [bold]{service.base_url}[/bold]")
            console.print(f"API key   [bold]{service.api_key}[/bold]")
            console.print(f"both in   {data_dir / 'client.env'}")
            console.print(
                "Any OpenAI SDK takes the two. Ctrl-C stops everything; what is stored stays."
            )
            service.supervisor.wait()
    except (ServiceFault, ServiceError, EmbeddedError) as error:
        sys.exit(f"tunery: {error}")
