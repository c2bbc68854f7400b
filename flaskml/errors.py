"""Every error that flaskml raises on purpose.

A constructor takes facts and the class writes the sentence, which says what to do next. `status` is the number that a
door answers with; nothing here knows HTTP beyond that number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

PROBLEMS_SHOWN = 20
"""How many problems of one input are told: enough to mend a table by, few enough to read and to send."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: the row (counted from 0), the feature, and a sentence."""

    row: int | None
    feature: str | None
    detail: str


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that offers the known name closest to `name`, or nothing if none is close."""
    matches = get_close_matches(name[:100], list(known), n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""


class FlaskmlError(Exception):
    """The root of the tree. `detail` is one sentence for people; it holds no absolute path and no traceback."""

    status = 500
    title = "Internal error"
    problems: tuple[Problem, ...] = ()
    retry_after: int | None = None
    """Seconds after which a client may try again; None where trying again cannot help."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidSetting(FlaskmlError):
    """A setting that does not exist or has a value of the wrong type; it stops the start."""

    title = "Invalid setting"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Setting {name}: {reason}")


class NotParseable(FlaskmlError):
    """A body that is not what it has to be before anything in it can be looked at."""

    status = 400
    title = "Body not parseable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body cannot be parsed: {reason}.")


class InvalidInput(FlaskmlError):
    """A body that parses and whose rows the model does not take."""

    status = 422
    title = "Input not acceptable"

    def __init__(self, problems: Sequence[Problem], *, more: bool = False) -> None:
        count = f"more than {len(problems)}" if more else str(len(problems))
        noun = "problem" if count == "1" else "problems"
        first = problems[0]
        where = f"row {first.row}: " if first.row is not None else ""
        super().__init__(f"The input has {count} {noun}. The first: {where}{first.detail}.")
        self.problems = tuple(problems)


class TooManyRows(FlaskmlError):
    """A body with more rows than one request may hold."""

    status = 413
    title = "Too many rows"

    def __init__(self, limit: int) -> None:
        super().__init__(f"One request may hold {limit:,} rows; split the rows over several (setting MAX_ROWS).")


class TooLarge(FlaskmlError):
    """A body with more bytes than the route takes."""

    status = 413
    title = "Body too large"

    def __init__(self, limit: int, setting: str) -> None:
        super().__init__(f"The body may hold {limit:,} bytes here; send it in parts (setting {setting}).")


class UnsupportedMediaType(FlaskmlError):
    """A declared content type or encoding that the door does not read."""

    status = 415
    title = "Unsupported media type"

    def __init__(self, declared: str, accepted: str) -> None:
        super().__init__(f"{declared[:100]} is not read here; send {accepted}.")


class ModelNotFound(FlaskmlError):
    """A model name that the store does not have."""

    status = 404
    title = "No such model"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f'There is no model "{name}"{nearest(name, known) or "."}')


class VersionNotFound(FlaskmlError):
    """A version number that the model does not have."""

    status = 404
    title = "No such version"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f'Model "{name}" has no version {version}; GET /models/{name} lists those it has.')


class NoActiveVersion(FlaskmlError):
    """The model that should answer has never been published."""

    status = 503
    title = "No model"
    retry_after = 10

    def __init__(self, name: str, known: Sequence[str]) -> None:
        option = "" if name == "default" else f" --name {name}"
        others = f" The store holds: {', '.join(known)} (setting MODEL_NAME picks one)." if known else ""
        super().__init__(f'There is no model "{name}" yet. Train one: flask train{option}.{others}')


class DamagedFile(FlaskmlError):
    """A file of the store that is missing, altered or not ours. `file` is relative to the instance folder."""

    status = 503
    title = "Damaged model store"
    retry_after = 60

    def __init__(self, file: str, reason: str, remedy: str) -> None:
        super().__init__(f"{file}: {reason}. {remedy}")


class StorageFailed(FlaskmlError):
    """The disk refused a write; nothing that was served has changed."""

    status = 507
    title = "Storage failed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The instance folder cannot be written: {reason}. Make room or permission, then send it again."
        )


class InvalidTraining(FlaskmlError):
    """A training specification or table that no model can be fitted to."""

    status = 422
    title = "Training not possible"


class TrainingFailed(FlaskmlError):
    """A fit that ended without a model."""

    title = "Training failed"


class JobNotFound(FlaskmlError):
    """A job id that the job database does not have."""

    status = 404
    title = "No such job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f'There is no job "{job_id}"; GET /jobs lists those there are.')


class QueueFull(FlaskmlError):
    """More training jobs waiting than the queue holds."""

    status = 429
    title = "Too many jobs"
    retry_after = 30

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} training jobs are waiting already; try again when one has ended (setting TRAIN_QUEUE)."
        )


class TokenRequired(FlaskmlError):
    """A state-changing request without a known token where tokens are configured."""

    status = 401
    title = "Token required"

    def __init__(self) -> None:
        super().__init__("This route changes state: send Authorization: Bearer with one of the configured tokens.")


class AccessDenied(FlaskmlError):
    """A state-changing request from where none is taken."""

    status = 403
    title = "Access denied"

    def __init__(self, reason: str) -> None:
        super().__init__(f"This route changes state and {reason}.")


class MissingExtra(FlaskmlError):
    """An optional library that a feature needs and that is not installed."""

    title = "Missing extra"

    def __init__(self, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs an optional library: pip install 'flaskml[{extra}]'.")
