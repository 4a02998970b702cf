"""`make images`: the images' layers built without an engine, and compose's services run in them.

Each instruction of Dockerfile.gpu is carried out in a root of its own, and each service of
docker-compose.yml is started from it as compose says: command, environment, user, volumes, memory
file systems, read-only root, no capability, dependencies and health checks. Then a job is trained.
It needs root, `debootstrap`, and what pip and apt reach.

Only an engine shows the rest: the base images themselves (Debian's Python and Redis and the wheel's
Postgres stand for them here), networks that keep services apart, limits of memory and processes,
seccomp, a GPU, and how a registry takes the images.
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.images import compose, dockerfile, roots
from tests.images.roots import ISOLATED, Mount, Root
from tunery.cli import embedded

ROOT = Path(__file__).parents[2]
PATIENCE = 300


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.images", description=__doc__)
    parser.add_argument("part", choices=["build", "run"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "images")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if os.geteuid() != 0:
        sys.exit("Roots and mounts take the rights of root: run it as root, or in a machine's VM.")
    if asked.part == "build":
        build(folder)
    else:
        # All ports are free in a network of its own.
        inside = [sys.executable, "-m", "tests.images", "run", "--folder", str(folder)]
        if os.environ.get("TUNERY_IMAGES_INSIDE") is None:  # noqa: TID251
            os.environ["TUNERY_IMAGES_INSIDE"] = "1"  # noqa: TID251
            os.execvp("unshare", ["unshare", "--net", *ISOLATED[1:], "--mount-proc", *inside])  # noqa: S606
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        Installation(folder).run()


def build(folder: Path) -> None:
    if not shutil.which("debootstrap"):
        sys.exit("debootstrap is not on the PATH: apt-get install debootstrap")
    folder.mkdir(parents=True, exist_ok=True)
    found = dockerfile.stages((ROOT / "Dockerfile.gpu").read_text())
    made = {"python": roots.python_base(folder / "python")}
    for name, stage in found.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        base = made.get(stage.base, made["python"])
        made[name] = roots.build(base, stage, folder / name, ROOT)
    redis = dockerfile.Stage("redis", "python")
    redis.steps = [
        ("RUN", "apt-get update && apt-get install --yes --no-install-recommends redis-server")
    ]
    shutil.rmtree(folder / "redis", ignore_errors=True)
    made["redis"] = roots.build(made["python"], redis, folder / "redis", ROOT)
    told = {
        name: {"env": root.env, "user": root.user, "workdir": root.workdir, "cmd": root.cmd}
        for name, root in made.items()
    }
    (folder / "images.json").write_text(json.dumps(told))
    for name in ("api", "worker"):
        size = subprocess.run(
            ["du", "-sm", folder / name], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        say(f"tunery-{name}: {size} MB")


class Installation:
    """What `docker compose up` makes, out of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "run"
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "logs").mkdir(parents=True)
        told = json.loads((folder / "images.json").read_text())
        self.roots = {name: Root(folder / name, **facts) for name, facts in told.items()}
        names = ("POSTGRES_PASSWORD", "TUNERY_LOGIN_PASSWORD", "REDIS_PASSWORD", "TUNERY_SECRET")
        self.values = {name: secrets.token_hex(24) for name in names}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        (self.work / "hosts").write_text("127.0.0.1 localhost postgres redis api\n")

    def run(self) -> None:
        try:
            for name in self.services():
                if name != "worker":
                    self.start(name)
            key = partial(self.told_by_api, ["python", "-m", "api.admin", "create-key", "--scopes"])
            # docs/deploy.md, First start: the worker's key exists only after the first migration.
            self.values["TUNERY_WORKER_KEY"] = key(["worker"])
            admin, own = key(["read,write,admin"]), key(["read,write"])
            add = ["tunery", "models", "add", "/models/demo", "--name", "tunery-demo"]
            env = {"TUNERY_URL": "http://127.0.0.1:8000", "TUNERY_ADMIN_KEY": admin}
            self.told_by_api([*add, "--licence", "Apache-2.0"], [], env)
            self.start("worker")
            self.train(own)
        finally:
            self.stop()

    def services(self) -> dict[str, dict[str, Any]]:
        return compose.services(ROOT / "docker-compose.yml", self.values)

    def start(self, name: str) -> None:
        service = self.services()[name]
        began = time.monotonic()
        if name == "postgres":
            self.start_postgres()
        else:
            image = self.image_of(service)
            user = "redis" if name == "redis" else None
            argv = [str(word) for word in service.get("command", image.cmd)]
            self.launch(name, self.script(name, image, argv, {}, user=user))
        if name == "migrate":
            status = self.children.pop(name).wait(PATIENCE)
            if status:
                self.give_up(name, f"ended with status {status}")
        elif name != "postgres":
            self.until_well(name, service)
        say(f"{name:<9} {self.image_name(service)} ({time.monotonic() - began:.1f} s)")

    def image_name(self, service: Mapping[str, Any]) -> str:
        return str(service["image"])

    def image_of(self, service: Mapping[str, Any]) -> Root:
        return self.roots[self.image_name(service).removeprefix("tunery-").partition(":")[0]]

    def script(
        self,
        name: str,
        image: Root,
        argv: list[str],
        env: Mapping[str, str],
        *,
        user: str | None = None,
    ) -> str:
        service = self.services()[name]
        mounts = [roots.bound(image.folder, "/etc/hosts")]
        mounts[0] = Mount(str(self.work / "hosts"), "/etc/hosts", "ro")
        for source, target, options in compose.mounts(service, self.work / "volumes"):
            place = image.folder / target.lstrip("/")
            if not Path(source).exists():
                # A new volume is what the image has there, with its owner.
                Path(source).parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", place, source], check=True)
            place.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(source, target, options))
        for target, options in compose.temporary(service):
            (image.folder / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            mounts.append(Mount("tmpfs", target, options))
        own = {key: str(value) for key, value in service.get("environment", {}).items()}
        return image.script(argv, {**own, **env}, mounts, user=user, as_service=True)

    def launch(self, name: str, script: str) -> None:
        with (self.work / "logs" / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [*ISOLATED, "sh", "-c", script], stdout=log, stderr=log, start_new_session=True
            )

    def start_postgres(self) -> None:
        """The wheel's own, with the user and the database that the image would make."""
        place = self.work / "postgres"
        made = embedded.postgres(place, log_dir=self.work / "logs", port=5432)
        postgres = made.service
        with (self.work / "logs" / "postgres.log").open("ab") as log:
            self.children["postgres"] = subprocess.Popen(
                postgres.argv,
                env=dict(postgres.env),
                stdout=log,
                stderr=log,
                preexec_fn=postgres.child_setup,  # noqa: PLW1509 - no threads here
                start_new_session=True,
            )
        self.until("postgres", postgres.ready)
        make_database(made.url, self.values["POSTGRES_PASSWORD"])

    def until_well(self, name: str, service: Mapping[str, Any]) -> None:
        """By its own health check; without one, it has to live for a moment."""
        check = service.get("healthcheck")
        if check is None:
            time.sleep(2)
            if self.children[name].poll() is not None:
                self.give_up(name, "ended")
            return
        kind, *words = check["test"]
        argv = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else words
        user = "redis" if name == "redis" else None
        script = self.script(name, self.image_of(service), argv, {}, user=user)
        well = partial(subprocess.run, [*ISOLATED, "sh", "-c", script], capture_output=True)
        self.until(name, lambda: well(check=False).returncode == 0)

    def until(self, name: str, ready: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            if self.children[name].poll() is not None:
                self.give_up(name, "ended")
            if time.monotonic() > end:
                self.give_up(name, f"was not healthy within {PATIENCE} s")
            time.sleep(0.5)

    def told_by_api(
        self, argv: list[str], more: list[str], env: Mapping[str, str] | None = None
    ) -> str:
        """As `docker compose run api` and `exec api`: the last line that it prints."""
        script = self.script("api", self.roots["api"], [*argv, *more], env or {})
        done = subprocess.run(
            [*ISOLATED, "sh", "-c", script], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{shlex.join(argv)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout.strip().rpartition("\n")[2]

    def train(self, key: str) -> None:
        from openai import OpenAI

        began = time.monotonic()
        with OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=key) as client:
            data = (ROOT / "examples" / "pirate.valid.jsonl").read_bytes()
            file = client.files.create(file=("pirate.jsonl", data), purpose="fine-tune")
            job = client.fine_tuning.jobs.create(
                training_file=file.id, model="tunery-demo", hyperparameters={"n_epochs": 1}
            )
            while job.status not in {"succeeded", "failed", "cancelled"}:
                if time.monotonic() > began + PATIENCE:
                    self.give_up("worker", f"left the job {job.status}")
                time.sleep(1)
                job = client.fine_tuning.jobs.retrieve(job.id)
        if job.status != "succeeded":
            self.give_up("worker", f"let the job end: {job.error}")
        say(f"a job      {job.fine_tuned_model} ({time.monotonic() - began:.1f} s)")

    def give_up(self, name: str, what: str) -> None:
        log = (self.work / "logs" / f"{name}.log").read_text(errors="replace")
        sys.exit(f"{name} {what}:\n{log[-4000:]}")

    def stop(self) -> None:
        """The last started first; a worker gives its job back."""
        for name, child in reversed(self.children.items()):
            if child.poll() is None:
                # Of `unshare`, the one that it has started: without it, that would be killed.
                started = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
                whom = child.pid if name == "postgres" else int(started[0])
                os.kill(whom, signal.SIGINT if name == "postgres" else signal.SIGTERM)
                try:
                    child.wait(60)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()


def make_database(url: str, password: str) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE tunery SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(password))
        )
        connection.execute("CREATE DATABASE tunery OWNER tunery")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
