"""`celery -A worker.app worker --concurrency 1`, one per GPU.

A message only wakes: losing, doubling or forging one changes nothing. So it is acknowledged early,
kept nowhere, and never prefetched from another worker that is free.
"""

import multiprocessing
import sys
from typing import Any

from celery import Celery, signals

from tunery import log_lines, privileges
from tunery.messages import WAKE_QUEUE
from tunery.settings import read
from worker.settings import Settings

privileges.shut()
settings = read(Settings)
if settings.redis_url is None:
    sys.exit("A Celery worker needs REDIS_URL. Without Redis, run `python -m worker --poll`.")
# Made before Celery forks, so that the word reaches the child that runs the agent. Without a lock:
# a child that is killed would take it along.
draining = multiprocessing.RawValue("b", 0)

app = Celery(
    "tunery",
    broker=settings.redis_url.get_secret_value(),
    include=["worker.tasks"],
)
app.conf.update(
    task_default_queue=WAKE_QUEUE,
    task_acks_late=False,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_channel_error_retry=True,
    broker_transport_options={
        "socket_timeout": 10,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def configure_log(**_: Any) -> None:  # noqa: ANN401
    """In place of Celery's own: its child has it too."""
    log_lines.configure(settings.log, settings.log_level, worker=settings.worker_name)


configure_log()  # Celery warns of root before it asks for this


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def drain(**_: Any) -> None:  # noqa: ANN401
    draining.value = 1
