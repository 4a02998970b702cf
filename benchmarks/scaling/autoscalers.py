"""What starts workers: nobody, a KEDA ScaledObject with the HorizontalPodAutoscaler that it makes,
or a KEDA ScaledJob. Each is asked in its own rhythm how many workers there should be.

Sources: keda.sh/docs "Scaling Deployments", "Scaling Jobs" (pkg/scaling/executor);
kubernetes.io/docs "Horizontal Pod Autoscaling" (algorithm details, default behavior).
"""

from dataclasses import dataclass, field
from math import ceil


@dataclass(frozen=True)
class Fixed:
    """So many workers, day and night."""

    workers: int


@dataclass
class ScaledJob:
    """Workers that end by themselves after `idle_exit` seconds without work, beside those that are
    always there. As in the Helm chart: the strategy `custom` with all running jobs taken off.
    """

    always: int = 0
    idle_exit: float = 600.0
    most: int = 50
    polling: float = 15.0

    def more(self, demand: int, on_demand: int) -> int:
        """How many to start. `on_demand` counts those that are still starting, too."""
        return max(0, min(demand, self.most) - self.always - on_demand)


@dataclass
class ScaledObject:
    """Replicas of a Deployment. From 0 to 1 and back KEDA itself decides; between 1 and the most
    the HorizontalPodAutoscaler does, with the defaults of its behavior.
    """

    least: int = 0
    most: int = 50
    polling: float = 30.0
    cooldown: float = 300.0
    stabilization: float = 300.0
    sync: float = 15.0
    tolerance: float = 0.1
    replicas: int = 0
    last_active: float = float("-inf")
    recommended: list[tuple[float, int]] = field(default_factory=list)

    def poll(self, now: float, demand: int) -> None:
        """KEDA's own part, each `polling` seconds."""
        if demand > 0:
            self.last_active = now
            self.replicas = max(self.replicas, self.least, 1)
        elif self.least == 0 and now - self.last_active >= self.cooldown:
            self.replicas, self.recommended = 0, []

    def adjust(self, now: float, demand: int) -> None:
        """The HPA's part, each `sync` seconds: one worker for each that is in demand."""
        if self.replicas == 0:
            return
        ratio = demand / self.replicas
        wanted = self.replicas if abs(ratio - 1) <= self.tolerance else ceil(demand)
        wanted = min(max(wanted, self.least, 1), self.most)
        self.recommended = [one for one in self.recommended if now - one[0] < self.stabilization]
        self.recommended.append((now, wanted))
        # Down to the highest that was recommended lately; up at most to the double, or by 4.
        held = max(count for _, count in self.recommended)
        up_to = max(2 * self.replicas, self.replicas + 4)
        self.replicas = min(wanted, up_to) if wanted > self.replicas else min(self.replicas, held)


Autoscaler = Fixed | ScaledJob | ScaledObject
