"""Every fact the service keeps. A table with `project_id` is under row-level security."""

from api.tables.base import NOW, Table, from_now
from api.tables.files import File
from api.tables.jobs import Artifact, Checkpoint, Event, Job, JobMetadata, JobPart
from api.tables.models import BaseModel, CheckpointPermission
from api.tables.projects import ApiKey, Creation, Project
from api.tables.workers import Attempt, Attendance, Lease, Worker

__all__ = [
    "NOW",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Attendance",
    "BaseModel",
    "Checkpoint",
    "CheckpointPermission",
    "Creation",
    "Event",
    "File",
    "Job",
    "JobMetadata",
    "JobPart",
    "Lease",
    "Project",
    "Table",
    "Worker",
    "from_now",
]
