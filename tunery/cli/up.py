"""`tunery up`: the whole service in the foreground."""

import os
import sys
from pathlib import Path

from rich.console import Console

from tunery.cli import gpus, profile
from tunery.cli.service import Running, ServiceFault, running
from tunery.cli.supervisor import ServiceError


def run(data_dir: Path, port: int, asked: str | None, *, worker: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    try:
        on = None if asked is None else gpus.chosen(asked, os.environ)  # noqa: TID251
        with running(data_dir, port, console.print, on=on, with_workers=worker) as service:
            console.print(f"\nconsole   [bold]{service.console_link()}[/bold]")
            console.print("          signs you in once, within 15 minutes; `tunery open` again")
            console.print(f"base URL  [bold]{service.base_url}[/bold]")
            console.print(f"API key   [bold]{service.api_key}[/bold]")
            console.print(f"both in   {data_dir / 'client.env'}")
            console.print(f"{keep_profile(service, data_dir)}")
            console.print(
                "Any OpenAI SDK takes the two. Ctrl-C stops everything; what is stored stays."
            )
            service.supervisor.wait()
    except (ServiceFault, ServiceError, gpus.NoSuchGpu) as error:
        sys.exit(f"tunery: {error}")


def keep_profile(service: Running, data_dir: Path) -> str:
    """Has the commands talk to this service from now on, unless somebody has logged in elsewhere or
    another data folder's service is there first. Returns what to say of it.
    """
    data_dir = data_dir.resolve()
    try:
        kept = profile.read()
        if kept and kept.data_dir != data_dir and (not kept.data_dir or kept.data_dir.exists()):
            whose = f", of {kept.data_dir}" if kept.data_dir else ""
            return (
                f"`tunery status` and the like go to {kept.url}{whose}, as before. For this one: "
                f"`set -a; . {data_dir / 'client.env'}`, or `tunery login {service.base_url}`."
            )
        profile.write(profile.Profile(url=service.base_url, key=service.api_key, data_dir=data_dir))
    except profile.BrokenProfile as error:
        return f"The `tunery` command finds this service by {data_dir / 'client.env'}: {error}"
    return "`tunery status` and the like in another shell find both by themselves."
