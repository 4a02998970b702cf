"""Every fact the service keeps. A table with `project_id` is an `OfProject`, and under
row-level security.
"""

from api.tables.base import NOW, OfProject, Table, from_now
from api.tables.files import File, StorageFault, StorageFolder
from api.tables.jobs import (
    Artifact,
    Checkpoint,
    EvaluationRow,
    Event,
    Job,
    JobMetadata,
    JobPart,
    LogPart,
    SampleSet,
)
from api.tables.models import BaseModel, CheckpointPermission
from api.tables.projects import ApiKey, AuditEntry, Creation, Person, Project, SignInCode
from api.tables.serving import Answered, AnsweringEndpoint, Completion, ServedModel
from api.tables.trackers import TrackedRun, TrackerKey
from api.tables.uploads import Arrival, Upload, UploadPart
from api.tables.webhooks import (
    DeliveryState,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookTally,
)
from api.tables.workers import (
    Attempt,
    AttemptTally,
    Attendance,
    DurationTally,
    Janitor,
    Lease,
    Worker,
)

__all__ = [
    "NOW",
    "Answered",
    "AnsweringEndpoint",
    "ApiKey",
    "Arrival",
    "Artifact",
    "Attempt",
    "AttemptTally",
    "Attendance",
    "AuditEntry",
    "BaseModel",
    "Checkpoint",
    "CheckpointPermission",
    "Completion",
    "Creation",
    "DeliveryState",
    "DurationTally",
    "EvaluationRow",
    "Event",
    "File",
    "Janitor",
    "Job",
    "JobMetadata",
    "JobPart",
    "Lease",
    "LogPart",
    "OfProject",
    "Person",
    "Project",
    "SampleSet",
    "ServedModel",
    "SignInCode",
    "StorageFault",
    "StorageFolder",
    "Table",
    "TrackedRun",
    "TrackerKey",
    "Upload",
    "UploadPart",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "WebhookTally",
    "Worker",
    "from_now",
]
