"""What can go wrong, in the terms of the domain. `api.http.errors` gives each its HTTP status."""


class TuneryError(Exception):
    """Base of all. `message` stands alone: it says what is wrong, where, and how to fix it.

    `param` is the request's field at fault and `code` a word for programs, as in OpenAI's envelope.
    """

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code


class InvalidRequest(TuneryError):
    """The request cannot be carried out as written."""


class DoesNotFit(InvalidRequest):
    """The training needs more memory than there is."""

    code = "does_not_fit"


class CannotAnswer(InvalidRequest):
    """The model is none that answers, or not in this way."""

    code = "model_cannot_answer"


class FileHasFaults(TuneryError):
    """A job was asked for on a file whose check found faults."""

    code = "invalid_training_file"


class Unauthenticated(TuneryError):
    """No key, or one that is unknown, expired or revoked."""

    code = "invalid_api_key"


class SignInAway(TuneryError):
    """The provider at which people sign in does not answer, or not as one."""

    code = "sign_in_away"


class Forbidden(TuneryError):
    """The key is good and lacks the scope."""

    code = "insufficient_scope"


class NotFound(TuneryError):
    """No such thing in this project: a foreign id answers exactly like an unknown one."""

    code = "not_found"


class Conflict(TuneryError):
    """The thing's present state does not allow this, and asking again will not change it."""

    code = "conflict"


class LeaseLost(TuneryError):
    """Another claim took the job over, or it has ended: the worker drops its results."""

    code = "lease_lost"


class ProtocolTooOld(TuneryError):
    """The worker speaks a protocol that this API no longer understands."""

    code = "protocol_too_old"


class KeyReused(TuneryError):
    """An `Idempotency-Key` came again with another request."""

    code = "idempotency_key_reused"


class TooLarge(TuneryError):
    """A body or a file is over its limit."""

    code = "too_large"


class QuotaReached(TuneryError):
    """The project has as much of this as it may have; waiting alone does not change that."""

    code = "insufficient_quota"


class RateLimited(TuneryError):
    """The project sends requests faster than it may; the same one is welcome after the pause."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WrongContentType(TuneryError):
    """The body is of another kind than this route reads."""

    code = "unsupported_media_type"


class Busy(TuneryError):
    """What this needs is taken just now; asking again in a moment will do."""

    code = "busy"


class NoWorkerFree(TuneryError):
    """No worker takes this just now; asking again later may do."""

    code = "no_worker_free"


class AnswerLost(TuneryError):
    """What was to compute the answer is gone, or has no answer."""

    code = "answer_lost"


class EndpointAway(TuneryError):
    """No server that has the model can be used just now; asking again later may do."""

    code = "endpoint_away"


class ModelNotVerified(TuneryError):
    """The servers that have the model do not answer with its weights."""

    code = "model_not_verified"


class WrongSchema(TuneryError):
    """The database was not migrated to this version, or was by a newer one."""

    code = "wrong_schema"


class MadeByNewer(TuneryError):
    """A newer version, which runs beside this one, has stored what this one cannot read."""

    code = "made_by_newer_version"


class StorageFull(TuneryError):
    """The disk behind storage has no room for this."""

    code = "storage_full"


class StorageAway(TuneryError):
    """The folder behind storage is not there, or cannot be read: it is waited for."""

    code = "storage_away"


class HubAway(TuneryError):
    """The model hub does not answer, or not as one."""

    code = "hub_away"


class BytesGone(TuneryError):
    """Storage is there and well, and has nothing under this key."""

    code = "content_gone"


class BytesDamaged(TuneryError):
    """What storage has under this key is not what was stored there."""

    code = "content_damaged"
