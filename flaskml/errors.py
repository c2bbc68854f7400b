"""Every error that flaskml raises on purpose.

A constructor takes facts and the class writes the sentence, which says what to do next. `status` is the number that a
door answers with; nothing here knows HTTP beyond that number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MAX_COMPARED_NAMES = 500
"""Names beyond which none is offered for a wrong one: comparing all takes longer than the hint is worth."""

MAX_PROBLEMS = 20
"""How many problems of one input are told: enough to mend a table by, few enough to read and to send."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: the row (counted from 0), the feature, and a sentence."""

    row: int | None
    feature: str | None
    detail: str


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that offers the known name closest to `name`, or nothing if none is close."""
    names = list(known)
    if len(names) > MAX_COMPARED_NAMES:
        return ""
    matches = get_close_matches(name[:100], names, n=1)
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

    @property
    def terse(self) -> str:
        """The detail without the name of a feature, a category or a value, for endpoints that the public sees."""
        return self.detail


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
    """A body that parses and is not what is taken; of many problems the first are told."""

    status = 422
    title = "Input not acceptable"

    def __init__(self, problems: Sequence[Problem], *, more: bool = False) -> None:
        more = more or len(problems) > MAX_PROBLEMS
        problems = problems[:MAX_PROBLEMS]
        count = f"more than {len(problems)}" if more else str(len(problems))
        noun = "problem" if count == "1" else "problems"
        first = problems[0]
        where = f"row {first.row}: " if first.row is not None else ""
        super().__init__(f"The input has {count} {noun}. The first: {where}{first.detail}.")
        self.problems = tuple(problems)
        self.count = f"{count} {noun}"

    @property
    def terse(self) -> str:
        """How many problems there are."""
        return f"The input has {self.count}."


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
        super().__init__(f'There is no model "{name}"{did_you_mean(name, known) or "."}')


class VersionNotFound(FlaskmlError):
    """A version number that the model does not have."""

    status = 404
    title = "No such version"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f'Model "{name}" has no version {version}; GET /models/{name} lists those it has.')


class InvalidName(FlaskmlError):
    """A text that cannot name a model."""

    status = 422
    title = "Invalid name"

    def __init__(self, name: str) -> None:
        super().__init__(f'"{name[:100]}" is no name for a model; small letters, digits, ".", "_" and "-" are.')


class InvalidAlias(FlaskmlError):
    """A name that cannot stand for a version."""

    status = 422
    title = "Invalid alias"

    def __init__(self, alias: str) -> None:
        super().__init__(
            f'"{alias[:100]}" cannot be an alias: use small letters, digits, ".", "_", "-", not digits alone.'
        )


class VersionNotServed(FlaskmlError):
    """A version that is stored, if at all, and not in memory: loading it would make a request wait for the disk."""

    status = 404
    title = "Version not served"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f'Version {version[:20]} of "{name}" is not served here; activate it, or give it an alias: '
            f"flask models alias {name} ALIAS {version[:20]}."
        )


class VersionInUse(FlaskmlError):
    """A version that cannot be removed, because requests are answered by it."""

    status = 409
    title = "Version in use"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f'Version {version} of "{name}" is active or has an alias; give both to another version first.'
        )


class NothingToRollBackTo(FlaskmlError):
    """A model whose first activation is its last."""

    status = 409
    title = "Nothing to roll back to"

    def __init__(self, name: str) -> None:
        super().__init__(
            f'No version of "{name}" was active before the present one; GET /models/{name} has the history.'
        )


class VersionRejected(FlaskmlError):
    """A version that may not serve, because its trial went wrong. What was served before still is."""

    status = 409
    title = "Version rejected"

    def __init__(self, name: str, version: str, reason: str) -> None:
        super().__init__(f'Version {version} of "{name}" was rejected in its trial: {reason}')


class NotPublishable(FlaskmlError):
    """An estimator or a sample that no version can be made of."""

    status = 422
    title = "Not publishable"


class InvalidSchema(FlaskmlError):
    """A column that no request could fill, or a correction that the column has no place for."""

    status = 422
    title = "Invalid schema"


class MethodNotOffered(FlaskmlError):
    """A method that the estimator does not have, or an option that the method does not take."""

    status = 422
    title = "Method not offered"

    def __init__(self, method: str, offered: Sequence[str]) -> None:
        super().__init__(f'There is no method "{method[:40]}" here; there are {", ".join(offered)}.')


class NoActiveVersion(FlaskmlError):
    """The model that should answer has no active version."""

    status = 503
    title = "No model"
    retry_after = 10

    def __init__(self, name: str, known: Sequence[str], versions: Sequence[str] = ()) -> None:
        if versions:
            sentence = f'No version of "{name}" is active. Activate one: flask models activate {name} {versions[-1]}.'
        else:
            sentence = f'There is no model "{name}" yet. Train one: {train_hint(name)}.'
        super().__init__(sentence + other_models_hint(name, known))


class DamagedFile(FlaskmlError):
    """A file of a model that is missing, altered or not ours. `file` is relative to the instance folder."""

    status = 503
    title = "Damaged model store"
    retry_after = 60

    def __init__(self, file: str, reason: str, name: str | None = None, remedy: str = "") -> None:
        remedy = remedy or f"Restore the file from a backup, or train a new version: {train_hint(name or 'default')}."
        super().__init__(f"{file}: {reason}. {remedy}")


class ModelUnavailable(FlaskmlError):
    """A model that cannot answer, for the reason of another error."""

    status = 503
    title = "Model not available"
    retry_after = 60

    def __init__(self, reason: FlaskmlError, name: str, known: Sequence[str]) -> None:
        super().__init__(reason.detail + other_models_hint(name, known))


class RowsRefused(FlaskmlError):
    """Rows that are as the schema wants them and that the estimator still refuses."""

    status = 422
    title = "Input not acceptable"

    def __init__(self) -> None:
        super().__init__(
            "The model cannot compute an answer to these rows; a number may be too large for it, a text unknown to it, "
            "or a value missing."
        )


class EngineUnavailable(FlaskmlError):
    """The engine is not made for what is installed."""

    title = "Engine not available"

    def __init__(self, found: str, missing: Sequence[str]) -> None:
        lacks = f", which lacks {', '.join(missing)}" if missing else ""
        super().__init__(f"The engine is made for waitress 3, and waitress {found} is installed{lacks}.")


def train_hint(name: str) -> str:
    """What to type to train a version of the model."""
    return "flask train" if name == "default" else f"flask train --name {name}"


def other_models_hint(name: str, known: Sequence[str]) -> str:
    """The sentence that names the other models there are, if any."""
    others = [other for other in known if other != name]
    return f" The store holds: {', '.join(others[:20])} (setting MODEL_NAME picks one)." if others else ""


class Draining(FlaskmlError):
    """A server that is about to stop and takes no new clients."""

    status = 503
    title = "Draining"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("This server is about to stop and only finishes what it has accepted; ask another one.")


class Busy(FlaskmlError):
    """Another change of the registry that is under way in this process; a second one would take a thread to wait."""

    status = 503
    title = "Busy"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("Another change of the registry is under way here; send this one again when it has ended.")


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
