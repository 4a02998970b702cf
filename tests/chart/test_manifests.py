"""What the chart makes of the five examples, without a cluster."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import (
    CHART,
    EXAMPLES,
    Manifest,
    component,
    containers,
    labels,
    of_kind,
    pods,
    render,
    secrets,
    variables,
)

Examples = dict[str, list[Manifest]]
PARTS = ("api", "janitor", "migrate", "worker", "test", "postgres", "redis")


def faults(tools: Path, manifests: list[Manifest]) -> str:
    """What the schemas say against them."""
    done = subprocess.run(
        [tools / "schemas/bin/python", Path(__file__).parent / "schemas.py"],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_kubernetes_keda_and_prometheus_take_every_manifest_and_see_a_wrong_name(
    tools: Path, examples: Examples
) -> None:
    every = [one for manifests in examples.values() for one in manifests]
    wrong = json.loads(json.dumps([one for _, one in of_kind(every, "ScaledJob").items()][:1]))
    spec = wrong[0]["spec"]["jobTargetRef"]["template"]["spec"]
    spec["terminationGracePeriod"] = spec.pop("terminationGracePeriodSeconds")
    said = faults(tools, [*every, *wrong]).splitlines()
    assert len(said) == 1
    assert "'terminationGracePeriod' was unexpected" in said[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_3_and_4_make_the_same_of_an_example(
    tools: Path, examples: Examples, name: str
) -> None:
    def told(manifests: list[Manifest]) -> list[str]:
        # Its passwords are new each time.
        kept = (one for one in manifests if one["kind"] != "Secret")
        return sorted(json.dumps(one, sort_keys=True) for one in kept)

    assert told(render(tools / "helm3", EXAMPLES[name])) == told(examples[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_pod_is_restricted_and_limited(examples: Examples, name: str) -> None:
    """Pod Security Standards, restricted; beside them a root file system that nobody writes to."""
    for _, template in pods(examples[name]):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(
            volume.keys() & {"emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"]
        )
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pod_has_only_the_secrets_of_its_part(examples: Examples, name: str) -> None:
    own = {
        "api": "tunery-server",
        "janitor": "tunery-server",
        "migrate": "tunery-owner",
        "worker": "tunery-worker",
        "test": "tunery-admin",
    }
    for _, template in pods(examples[name]):
        part, held = component(template), secrets(template)
        if name == "trial":
            held.discard("tunery-trial")
            own = own | {"migrate": ""}
        assert held <= {own.get(part, "")}, part
    # Of the one that a trial has for all, each is given what it needs.
    wanted = {
        "api": {"TUNERY_LOGIN_PASSWORD", "TUNERY_SECRET"},
        "janitor": {"TUNERY_LOGIN_PASSWORD", "TUNERY_SECRET", "REDIS_PASSWORD"},
        "migrate": {"POSTGRES_PASSWORD", "TUNERY_LOGIN_PASSWORD"},
        "worker": {"REDIS_PASSWORD"},
        "test": set(),
        "postgres": {"POSTGRES_PASSWORD"},
        "redis": {"REDIS_PASSWORD"},
    }
    for _, template in pods(examples["trial"]):
        env = containers(template)[0]["env"]
        assert {one["name"] for one in env if "secretKeyRef" in one.get("valueFrom", {})} == wanted[
            component(template)
        ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_selector_and_every_name_meets_what_it_means(examples: Examples, name: str) -> None:
    manifests = examples[name]
    held = [labels(template) for _, template in pods(manifests)]
    for wanted in selectors(manifests):
        assert any(wanted.items() <= one.items() for one in held), wanted
    for one in manifests:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            own = labels(one["spec"]["template"])
            assert one["spec"]["selector"]["matchLabels"].items() <= own.items()
    for autoscaler in of_kind(manifests, "HorizontalPodAutoscaler").values():
        assert autoscaler["spec"]["scaleTargetRef"]["name"] in of_kind(manifests, "Deployment")
    for scaled in of_kind(manifests, "ScaledJob").values():
        (trigger,) = scaled["spec"]["triggers"]
        named = trigger["authenticationRef"]["name"]
        assert named in of_kind(manifests, "TriggerAuthentication")
    accounts = of_kind(manifests, "ServiceAccount")
    for _, template in pods(manifests):
        account = template["spec"].get("serviceAccountName")
        assert account is None or account in accounts
        claims = {one["name"] for one in template["spec"]["volumes"]}
        for one in manifests:
            if one.get("spec", {}).get("template") is template:
                wanted_claims = one["spec"].get("volumeClaimTemplates", ())
                claims |= {claim["metadata"]["name"] for claim in wanted_claims}
        for container in containers(template):
            assert {one["name"] for one in container["volumeMounts"]} <= claims


def selectors(manifests: list[Manifest]) -> Iterator[dict[str, str]]:
    for one in manifests:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            yield spec["selector"]
        elif one["kind"] == "PodDisruptionBudget":
            yield spec["selector"]["matchLabels"]
        elif one["kind"] == "ServiceMonitor":
            services = of_kind(manifests, "Service").values()
            wanted = spec["selector"]["matchLabels"].items()
            assert any(wanted <= service["metadata"]["labels"].items() for service in services)
        elif one["kind"] == "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]


def test_what_connects_to_what_is_as_in_the_table_and_nothing_else(examples: Examples) -> None:
    """In a trial, whose parts are all pods: where one lets out and the other lets in."""
    policies = of_kind(examples["trial"], "NetworkPolicy")
    held = {part: {"app.kubernetes.io/component": part} for part in PARTS}
    connected = {
        (one, other)
        for one in PARTS
        for other in PARTS
        if allows(policies, "egress", one, held[other], other)
        and allows(policies, "ingress", other, held[one], other)
    }
    assert connected == {
        ("api", "postgres"),
        ("janitor", "postgres"),
        ("migrate", "postgres"),
        ("janitor", "redis"),
        ("worker", "redis"),
        ("worker", "api"),
        ("test", "api"),
    }
    # The Internet is for those three, and for none of them in an air-gapped cluster.
    assert reach_internet(examples["trial"]) == {"api", "janitor", "worker"}
    assert reach_internet(examples["airgapped"]) == set()


PORTS = {"api": "http", "postgres": 5432, "redis": 6379}


def allows(
    policies: dict[str, Manifest], way: str, part: str, peer: dict[str, str], server: str
) -> bool:
    spec = policies[f"tunery-{part}"]["spec"]
    if way.capitalize() not in spec["policyTypes"]:
        # The first of the policies closes it.
        return False
    for rule in spec.get(way, ()):
        if {"port": PORTS.get(server)} not in rule["ports"]:
            continue
        peers = rule.get("from" if way == "ingress" else "to")
        if peers is None or any(selects(one, peer) for one in peers):
            return True
    return False


def selects(peer: Manifest, held: dict[str, str]) -> bool:
    if "podSelector" not in peer:
        return False
    part = held["app.kubernetes.io/component"]
    selector = peer["podSelector"]
    named = selector["matchLabels"].get("app.kubernetes.io/component")
    listed = [one["values"] for one in selector.get("matchExpressions", ())]
    return part == named or any(part in values for values in listed)


def reach_internet(manifests: list[Manifest]) -> set[str]:
    return {
        one["metadata"]["labels"]["app.kubernetes.io/component"]
        for one in of_kind(manifests, "NetworkPolicy").values()
        for rule in one["spec"].get("egress", ())
        for peer in rule.get("to", ())
        if peer.get("ipBlock", {}).get("except")
    }


def test_a_service_for_many_has_replicas_that_an_upgrade_and_a_drain_leave_standing(
    examples: Examples,
) -> None:
    manifests = examples["production"]
    api = of_kind(manifests, "Deployment")["tunery-api"]["spec"]
    assert api["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    # The autoscaler's, which an upgrade would set back.
    assert "replicas" not in api
    scaler = of_kind(manifests, "HorizontalPodAutoscaler")["tunery-api"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert of_kind(manifests, "Deployment")["tunery-janitor"]["spec"]["replicas"] == 2
    assert of_kind(manifests, "PodDisruptionBudget").keys() == {"tunery-api", "tunery-janitor"}
    (container,) = api["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_the_database_is_migrated_before_an_upgrade_and_beside_a_trial(examples: Examples) -> None:
    (job,) = of_kind(examples["production"], "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    # Before the first install there is nothing of the chart's that it could use.
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    assert [*spec["volumes"][0]] == ["name", "emptyDir"]
    ((name, job),) = of_kind(examples["trial"], "Job").items()
    assert "annotations" not in job["metadata"]
    # A job cannot be changed: each revision has one of its own.
    assert name == "tunery-migrate-1"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_worker_is_killed_later_than_it_needs_to_drain(examples: Examples, name: str) -> None:
    for _, template in pods(examples[name]):
        if component(template) == "worker":
            (container,) = containers(template)
            grace = float(variables(container)["TUNERY_GRACE_SECONDS"])
            assert template["spec"]["terminationGracePeriodSeconds"] >= grace + 20


def test_workers_on_demand_are_as_many_as_are_wanted_beyond_those_always_there(
    examples: Examples,
) -> None:
    """As KEDA's `customScalingStrategy` counts (pkg/scaling/executor/scale_jobs.go)."""
    spec = of_kind(examples["production"], "ScaledJob")["tunery-worker-l40s-on-demand"]["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["valueLocation"] == 'ft_gpu_demand{pool="l40s"}'
    assert spec["rollout"] == {"strategy": "gradual"}
    strategy, most = spec["scalingStrategy"], spec["maxReplicaCount"]
    share = float(strategy["customScalingRunningJobPercentage"])
    for demand in range(12):
        for running in range(7):
            cut = min(demand / float(trigger["metadata"]["targetValue"]), most)
            scale = cut - strategy["customScalingQueueLengthDeduction"] - int(running * share)
            made = max(0, min(scale, most))
            assert running + made == max(running, min(6, max(0, demand - 1)))


def test_a_pool_has_its_gpu_its_queue_and_its_own_settings(examples: Examples) -> None:
    def limits(name: str, workload: str) -> dict[str, Any]:
        templates = dict(pods(examples[name]))
        found: dict[str, Any] = containers(templates[workload])[0]["resources"]["limits"]
        return found

    slices = limits("mig", "tunery-worker-mig-3g-40gb-on-demand")
    assert slices == {"memory": "64Gi", "nvidia.com/mig-3g.40gb": 1}
    assert limits("trial", "tunery-worker-cpu") == {"memory": "8Gi"}
    every = [one for one in examples["production"] if "tunery/pool" in one["metadata"]["labels"]]
    assert len(every) == 3
    assert {one["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for one in every} == {"tuning"}
    templates = dict(pods(examples["production"]))
    h100 = variables(containers(templates["tunery-worker-h100-on-demand"])[0])
    assert h100.items() >= {"TUNERY_POOL": "h100", "TUNERY_ANSWER_ROOM": "0"}.items()


def test_names_stay_within_what_kubernetes_allows(helm: Callable[..., list[Manifest]]) -> None:
    pool = '"memoryGiB": 1, "always": 1, "onDemand": 1, "work": {"sizeGiB": 1}'
    sets = f'workers.pools=[{{"name": "{"p" * 20}", {pool}}}]'
    manifests = helm(EXAMPLES["production"], sets, release="r" * 53)
    # The pods of a StatefulSet have a hash of 10 more in a label; a ScaledJob's name is one.
    assert all(len(name) <= 52 for name in of_kind(manifests, "StatefulSet"))
    assert all(len(one["metadata"]["name"]) <= 63 for one in manifests)


def test_a_worker_keeps_fewer_bytes_of_base_models_than_its_folder_takes(
    examples: Examples,
) -> None:
    templates = dict(pods(examples["production"]))
    env = variables(containers(templates["tunery-worker-h100-on-demand"])[0])
    assert env["TUNERY_FETCHED_BYTES"] == str(560 << 30)


def test_copies_of_a_bucket_have_room_on_the_node_s_disk(
    helm: Callable[..., list[Manifest]], examples: Examples
) -> None:
    def room(manifests: list[Manifest], name: str) -> tuple[Any, Any, str | None]:
        (container,) = containers(dict(pods(manifests))[name])
        requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        size = variables(container).get("TUNERY_STORAGE_CACHE_BYTES")
        return requests.get("ephemeral-storage"), limits.get("ephemeral-storage"), size

    for name in ("tunery-api", "tunery-janitor"):
        assert room(examples["production"], name) == ("24Gi", "48Gi", str(16 << 30))
        assert room(examples["minimal"], name) == (None, None, None), "they are on the volume"
        small = helm(EXAMPLES["production"], "storage.s3.cacheGiB=2")
        assert room(small, name) == ("10Gi", "20Gi", str(2 << 30))
    own = 'api.resources.limits={"memory": "4Gi", "ephemeral-storage": "90Gi"}'
    assert room(helm(EXAMPLES["production"], own), "tunery-api")[1] == "90Gi"


def test_numbers_and_pools_are_written_as_they_are_read(examples: Examples) -> None:
    templates = dict(pods(examples["production"]))
    for name in ("tunery-api", "tunery-janitor"):
        env = variables(containers(templates[name])[0])
        assert env["TUNERY_MAX_FILE_BYTES"] == "34359738368"
        assert env["TUNERY_STORAGE"] == "s3://tunery-prod/data"
        assert json.loads(env["TUNERY_POOLS"]) == [
            {"name": "l40s", "memory_bytes": 48 << 30, "price_per_hour": 1.2, "currency": "USD"},
            {"name": "h100", "memory_bytes": 80 << 30, "price_per_hour": 3.9, "currency": "USD"},
        ]
    env = variables(containers(dict(pods(examples["mig"]))["tunery-api"])[0])
    assert json.loads(env["TUNERY_POOLS"])[0]["memory_bytes"] == int(9.75 * (1 << 30))


def test_a_pool_overrides_a_setting_of_all_with_zero_too(
    helm: Callable[..., list[Manifest]],
) -> None:
    sets = "settings.worker.TUNERY_ANSWER_ROOM=4"
    templates = dict(pods(helm(EXAMPLES["production"], sets)))
    rooms = {
        name: variables(containers(template)[0]).get("TUNERY_ANSWER_ROOM")
        for name, template in templates.items()
    }
    assert rooms["tunery-worker-l40s"] == "4"
    assert rooms["tunery-worker-h100-on-demand"] == "0"


def test_alert_rules_and_dashboards_beside_the_chart_are_in_it_as_they_are(
    tools: Path, helm: Callable[..., list[Manifest]], tmp_path: Path
) -> None:
    copied = shutil.copytree(CHART, tmp_path / "tunery", ignore=lambda *_: {"alerts", "dashboards"})
    summary = "Away for {{ $value }} s."
    rule = {"alert": "Away", "expr": "absent(ft_build_info)", "annotations": {"summary": summary}}
    groups = [{"name": "tunery", "rules": [rule]}]
    for folder, name, content in (
        ("alerts", "all.rules.yaml", {"groups": groups}),
        ("dashboards", "jobs.json", {"title": "{{pool}}"}),
    ):
        (copied / folder).mkdir()
        (copied / folder / name).write_text(json.dumps(content))
    manifests = helm(EXAMPLES["production"], chart=copied)
    rules = of_kind(manifests, "PrometheusRule")["tunery-all"]
    assert rules["spec"] == {"groups": groups}
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    dashboards = of_kind(manifests, "ConfigMap")["tunery-dashboards"]
    assert json.loads(dashboards["data"]["jobs.json"]) == {"title": "{{pool}}"}
    assert faults(tools, [rules, dashboards]) == ""
