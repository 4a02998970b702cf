"""Pods' containers as processes of this machine: the rendered command, with the environment that
Kubernetes would make of the rendered variables and the named secrets.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chart.rendering import Manifest, containers

ROOT = Path(__file__).parents[2]


@dataclass
class Machine:
    """Where the parts find each other here: each text of a manifest on the left, such as an address
    in the cluster or the path of a mount, is the one on the right.
    """

    folder: Path
    secrets: dict[str, dict[str, str]]
    here: dict[str, str]
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, pod: str, template: Manifest, *instead: str) -> "Process":
        """Starts the pod's one container; or another program in it, as `kubectl exec` does."""
        (container,) = containers(template)
        own = self.folder / pod
        mounts = {one["mountPath"]: str(own / one["name"]) for one in container["volumeMounts"]}
        here = mounts | self.here
        for path in here.values():
            if path.startswith(str(self.folder)):
                Path(path).mkdir(parents=True, exist_ok=True)
        env = self.variables(container, pod)
        log = self.stack.enter_context((own / "log").open("w"))
        child = subprocess.Popen(
            [moved(word, here) for word in instead or container["command"]],
            env={name: moved(value, here) for name, value in env.items()}
            | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process = Process(child, own / "log", template["spec"].get("terminationGracePeriodSeconds"))
        self.stack.callback(process.kill)
        return process

    def variables(self, container: Manifest, pod: str) -> dict[str, str]:
        env: dict[str, str] = {}
        for one in container.get("envFrom", ()):
            ref = one["secretRef"]
            env |= (
                self.secrets.get(ref["name"], {})
                if ref.get("optional")
                else self.secrets[ref["name"]]
            )
        for one in container.get("env", ()):
            source = one.get("valueFrom")
            if source is None:
                # Kubernetes puts in those that stand above.
                value = re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], one["value"])
            elif "secretKeyRef" in source:
                ref = source["secretKeyRef"]
                value = self.secrets[ref["name"]][ref["key"]]
            else:
                assert source == {"fieldRef": {"fieldPath": "metadata.name"}}
                value = pod
            env[one["name"]] = value
        return env


def moved(text: str, here: dict[str, str]) -> str:
    """The longest first, and none within what another one has become."""
    names = sorted(here, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), lambda found: here[found[0]], text)


@dataclass
class Process:
    child: "subprocess.Popen[bytes]"
    log: Path
    grace: float | None

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, what: Callable[[], object], seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not what():
            assert self.child.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)

    def ended(self) -> int:
        """Its exit status. Raises TimeoutExpired where a kubelet would kill it."""
        return self.child.wait(self.grace or 240)

    def kill(self) -> None:
        """With all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
