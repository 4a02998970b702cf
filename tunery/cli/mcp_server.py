"""`tunery mcp`: the service as tools for an agent, over the stdio transport of the Model Context
Protocol (https://modelcontextprotocol.io/specification).
"""

import functools
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from openai import OpenAIError

from tunery.cli.access import Access, NoAccess, find, in_words
from tunery.cli.profile import BrokenProfile
from tunery.cli.verbs import Verbs

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ImportError as error:
    sys.exit(f"tunery: {error}. In Tunery's folder install what is missing: pip install '.[mcp]'.")

INSTRUCTIONS = (
    "Fine-tuning jobs on the user's own Tunery service. Upload a data set with upload_file, read "
    "its report with get_file_report until it has no faults, ask estimate_job what a job would "
    "take, start it with create_job, and follow it with get_job and list_events. Judge it with "
    "get_metrics and list_samples, and fetch it with download_job, or export_job in another form."
)

LOOKS = (
    Verbs.whoami,
    Verbs.list_models,
    Verbs.get_model,
    Verbs.list_files,
    Verbs.get_file,
    Verbs.get_file_report,
    Verbs.estimate_job,
    Verbs.list_jobs,
    Verbs.get_job,
    Verbs.list_events,
    Verbs.get_metrics,
    Verbs.get_logs,
    Verbs.list_checkpoints,
    Verbs.list_samples,
    Verbs.get_evaluation,
    Verbs.list_artifacts,
    Verbs.list_exports,
    Verbs.get_export,
)
CHANGES = (
    Verbs.upload_file,
    Verbs.create_job,
    Verbs.pause_job,
    Verbs.resume_job,
    Verbs.export_job,
    Verbs.download_job,
    Verbs.download_export,
    Verbs.download_file,
)
ENDS = (
    Verbs.cancel_job,
    Verbs.delete_job,
    Verbs.delete_file,
    Verbs.delete_model,
)


def serve() -> None:
    """Until the agent closes stdin."""
    try:
        access = find()
    except (NoAccess, BrokenProfile) as error:
        sys.exit(f"tunery: {error}")
    with access.client() as client:
        server_of(Verbs(client), access).run("stdio")


def server_of(verbs: Verbs, access: Access) -> MCPServer:
    """With a tool for each verb. Which of them only look and which cannot be undone is annotated,
    so that an agent's user can be asked.
    """
    server = MCPServer(
        "tunery", instructions=INSTRUCTIONS, version=version("tunery"), log_level="WARNING"
    )
    for group, annotations in (
        (LOOKS, ToolAnnotations(read_only_hint=True)),
        (CHANGES, ToolAnnotations(read_only_hint=False, destructive_hint=False)),
        (ENDS, ToolAnnotations(read_only_hint=False, destructive_hint=True)),
    ):
        for verb in group:
            bound = getattr(verbs, verb.__name__)
            server.add_tool(telling(bound, access), annotations=annotations)
    return server


def telling(verb: Callable[..., Any], access: Access) -> Callable[..., Any]:
    """The verb, whose errors an agent can read."""

    @functools.wraps(verb)
    def asked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as the verb)
        try:
            return verb(*args, **kwargs)
        except OpenAIError as error:
            raise ToolError(in_words(error, access)) from error
        except OSError as error:
            raise ToolError(str(error)) from error

    return asked
