"""Each rendered command starts for real, finds the others, and ends as a kubelet ends it."""

import re
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from pydantic_settings import BaseSettings

import api.settings
import worker.settings
from api.db.session import Database
from api.models import bases
from tests.chart.machine import ROOT, Machine, Process
from tests.chart.rendering import EXAMPLES, Manifest, component, containers, of_kind, pods
from tests.conftest import BASE, make_database
from tests.factories import create_job, data_set, upload
from tests.stores import Stores
from tunery.base_model import describe
from tunery.cli.embedded import free_port
from tunery.settings import read

Examples = dict[str, list[Manifest]]
# It would train for an hour.
LONG = {"n_epochs": 50, "batch_size": 4}


@dataclass
class Service:
    """What an install of the trial has made here, with the keys that the notes tell to make."""

    machine: Machine
    api: Process
    janitor: Process
    url: str
    admin: httpx.Client

    def jobs_by_worker(self) -> dict[str, str | None]:
        listed = self.admin.get("/v1/admin/workers").raise_for_status().json()["data"]
        return {one["name"]: one["job_id"] for one in listed if one["state"] == "active"}

    def job_of(self, worker: str) -> str | None:
        return self.jobs_by_worker().get(worker)

    def events(self, job: str | None) -> list[str]:
        listed = self.admin.get(f"/v1/fine_tuning/jobs/{job}/events", params={"limit": 100})
        return [one["message"] for one in listed.raise_for_status().json()["data"]]

    def trained(self, job: str | None) -> bool:
        return any(message.startswith("Step ") for message in self.events(job))


@pytest.fixture(scope="module")
def service(
    stores: Stores, examples: Examples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder, port = tmp_path_factory.mktemp("machine"), free_port()
    owner = make_database(stores.postgres_url, "chart")
    user, _, at = owner.removeprefix("postgresql://").partition("@")
    login, url = secrets.token_hex(24), f"http://127.0.0.1:{port}"
    server = {"TUNERY_SECRET": secrets.token_hex(32), "REDIS_URL": stores.redis_url}
    machine = Machine(
        folder,
        secrets={
            "tunery-trial": server
            | {
                "POSTGRES_PASSWORD": user.partition(":")[2],
                "TUNERY_LOGIN_PASSWORD": login,
                "REDIS_PASSWORD": "none",
            },
            "tunery-owner": {"DATABASE_URL": owner, "TUNERY_LOGIN_PASSWORD": login},
            "tunery-server": server | {"DATABASE_URL": f"postgresql://tunery_server:{login}@{at}"},
            "tunery-worker": {"REDIS_URL": stores.redis_url},
        },
        here={
            "postgresql://tunery:": "postgresql://postgres:",
            "tunery-postgres:5432/tunery": at,
            "redis://:none@tunery-redis:6379/0": stores.redis_url,
            "http://tunery-api:8000": url,
            "0.0.0.0": "127.0.0.1",  # noqa: S104
            "8000": str(port),
            "/var/lib/tunery/storage": str(folder / "storage"),
        },
    )
    parts = {component(template): template for _, template in pods(examples["trial"])}
    with machine.stack:
        assert machine.start("migrate", parts["migrate"]).ended() == 0
        api = machine.start("tunery-api", parts["api"])
        janitor = machine.start("tunery-janitor", parts["janitor"])
        api.wait_for(lambda: ready(url))

        def key(scopes: str) -> str:
            words = ("python", "-m", "api.admin", "create-key", "--scopes", scopes)
            made = machine.start(f"exec-{scopes}", parts["api"], *words)
            assert made.ended() == 0
            return made.said().split()[-1]

        machine.secrets["tunery-worker"]["TUNERY_WORKER_KEY"] = key("worker")
        db = Database(owner)
        with db.as_control() as tx:
            bases.register(tx, describe(ROOT / "models" / "tiny", id_=BASE, licence="Apache-2.0"))
        db.close()
        headers = {"authorization": f"Bearer {key('read,write,admin')}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as admin:
            yield Service(machine, api, janitor, url, admin)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_helm_test_checks_the_installation(service: Service, examples: Examples) -> None:
    parts = {component(template): template for _, template in pods(examples["trial"])}
    key = service.admin.headers["authorization"].removeprefix("Bearer ")
    service.machine.secrets["tunery-admin"] = {"TUNERY_ADMIN_KEY": key}
    good = service.machine.start("tunery-test", parts["test"])
    assert good.ended() == 0, good.said()
    assert "reaches database and storage" in good.said()
    service.machine.secrets["tunery-admin"] = {"TUNERY_ADMIN_KEY": key[:-1]}
    bad = service.machine.start("tunery-test-2", parts["test"])
    assert bad.ended() == 1


def workers(manifests: list[Manifest], example: str) -> dict[str, Manifest]:
    return {
        f"{example}-{name.removeprefix('tunery-')}": template
        for name, template in pods(manifests)
        if component(template) == "worker"
    }


@pytest.fixture(scope="module")
def released(service: Service, examples: Examples) -> list[str]:
    """Jobs that every worker of every example was at when it was told to end, and gave back."""
    templates = {
        name: template
        for example, manifests in examples.items()
        for name, template in workers(manifests, example).items()
    }
    started = {name: service.machine.start(name, one) for name, one in templates.items()}
    # Under Celery a worker is first heard of when there is a job.
    asking = {name for name, one in templates.items() if "--poll" in containers(one)[0]["command"]}
    started[min(asking)].wait_for(lambda: asking <= service.jobs_by_worker().keys())
    key = service.admin.headers["authorization"].split()[1]
    with OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
        file = upload(client, data_set(2000))
        for _ in templates:
            create_job(client, file.id, hyperparameters=LONG)
    for name, process in started.items():
        process.wait_for(partial(service.job_of, name))
    jobs = service.jobs_by_worker()
    for name, process in started.items():
        process.wait_for(partial(service.trained, jobs[name]))
    for process in started.values():
        process.child.send_signal(signal.SIGTERM)
    for process in started.values():
        assert process.ended() == 0, process.said()
    assert len(asking) < len(started) == len(set(jobs.values()))
    return [job for job in jobs.values() if job]


def test_every_worker_takes_a_job_and_gives_it_back_within_its_grace(
    service: Service, released: list[str]
) -> None:
    assert service.jobs_by_worker() == {}
    for job in released:
        assert service.admin.get(f"/v1/fine_tuning/jobs/{job}").json()["status"] == "queued"
        newest = service.events(job)[:2]
        assert newest[0] == "The worker gave the job back; it is queued again"
        assert newest[1].startswith("Checkpoint created at step ")


@pytest.mark.usefixtures("released")
def test_keda_finds_the_demand_of_a_pool(service: Service, examples: Examples) -> None:
    """As its trigger `metrics-api` reads the format `prometheus`."""
    scaled = of_kind(examples["minimal"], "ScaledJob")["tunery-worker-cpu-on-demand"]
    asked = scaled["spec"]["triggers"][0]["metadata"]
    answer = service.admin.get(asked["url"].removeprefix("http://tunery-api.tunery.svc:8000"))
    name, label, value = re.findall(r"[\w-]+", asked["valueLocation"])
    found = [
        sample.value
        for family in text_string_to_metric_families(answer.raise_for_status().text)
        for sample in family.samples
        if (sample.name, sample.labels.get(label)) == (name, value)
    ]
    assert len(found) == 1
    assert found[0] > 2


def test_a_worker_on_demand_goes_on_from_the_checkpoint_and_ends_when_it_is_idle(
    service: Service, released: list[str], helm: Callable[..., list[Manifest]]
) -> None:
    for job in released[1:]:
        service.admin.post(f"/v1/fine_tuning/jobs/{job}/cancel").raise_for_status()
    step = service.events(released[0])[1].rpartition(" ")[2]
    templates = workers(helm(EXAMPLES["minimal"], "workers.idleSeconds=2"), "idle")
    process = service.machine.start("idle", templates["idle-worker-cpu-on-demand"])
    resumed = f"Resumed from the checkpoint of step {step}."
    process.wait_for(lambda: resumed in service.events(released[0]))
    service.admin.post(f"/v1/fine_tuning/jobs/{released[0]}/cancel").raise_for_status()
    assert process.child.wait(120) == 0


def test_api_and_janitor_end_within_their_grace_though_a_client_follows_a_job(
    service: Service, released: list[str]
) -> None:
    with service.admin.stream("GET", f"/v1/fine_tuning/jobs/{released[0]}/stream") as stream:
        assert stream.status_code == httpx.codes.OK
        for process in (service.api, service.janitor):
            process.child.send_signal(signal.SIGTERM)
        assert service.janitor.ended() == 0
        # uvicorn first ends what it is at, and then by the signal itself.
        assert service.api.ended() in {0, -signal.SIGTERM}


SETTINGS: dict[str, type[BaseSettings]] = {
    "api": api.settings.Settings,
    "janitor": api.settings.Settings,
    "migrate": api.settings.DatabaseSettings,
    "worker": worker.settings.Settings,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_rendered_environment_is_read(
    examples: Examples, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {"DATABASE_URL": "postgresql://tunery_server:p@postgres:5432/tunery"}
    names = ("POSTGRES_PASSWORD", "TUNERY_LOGIN_PASSWORD", "REDIS_PASSWORD", "TUNERY_SECRET")
    given = {
        "tunery-trial": dict.fromkeys(names, "p" * 40),
        "tunery-owner": url | {"TUNERY_LOGIN_PASSWORD": "p"},
        "tunery-server": url | {"TUNERY_SECRET": "s" * 32, "REDIS_URL": "redis://redis"},
        "tunery-worker": {"TUNERY_WORKER_KEY": "k", "REDIS_URL": "redis://redis"},
    }
    for pod, template in pods(examples[name]):
        if component(template) in SETTINGS:
            (container,) = containers(template)
            with monkeypatch.context() as patched:
                for variable, value in (
                    Machine(tmp_path, given, {}).variables(container, pod).items()
                ):
                    patched.setenv(variable, value)
                found = read(SETTINGS[component(template)])
            if isinstance(found, worker.settings.Settings):
                assert found.worker_name == pod
