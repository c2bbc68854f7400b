"""Every error that flaskml raises on purpose, one class for each case.

A constructor takes facts and builds the message, which says what is wrong and what to do next. `status` is the HTTP
status code of the response; this module knows nothing else of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MAX_COMPARED_NAMES = 500
"""The largest number of names that a wrong one is compared with: more take longer than the hint is worth."""

MAX_PROBLEMS = 20
"""The largest number of problems reported of one input: enough to correct a table, few enough to read and to send."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of an input: the row (counted from 0), the feature, and a sentence without a full stop."""

    row: int | None
    feature: str | None
    detail: str


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the closest known name, or an empty string if none is close."""
    names = list(known)
    if len(names) > MAX_COMPARED_NAMES:
        return ""
    matches = get_close_matches(name[:100], names, n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""


class FlaskmlError(Exception):
    """The base class of all errors. `detail` is a message for people, without absolute paths and tracebacks."""

    status = 500
    title = "Internal error"
    problems: tuple[Problem, ...] = ()
    retry_after: int | None = None
    """Seconds after which a client may retry; None if a retry cannot help."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def detail_without_names(self) -> str:
        """The detail without names of features, categories and values, for public endpoints."""
        return self.detail


class InvalidSetting(FlaskmlError):
    """A setting that does not exist or has a value of the wrong type; the process does not start."""

    title = "Invalid setting"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Setting {name}: {reason}")


class NotParseable(FlaskmlError):
    """A body whose format is wrong, so that no value in it can be read."""

    status = 400
    title = "Body not parseable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The body cannot be parsed: {reason}.")


class InvalidInput(FlaskmlError):
    """A body that parses but has values that are not accepted. Reports the first `MAX_PROBLEMS` problems."""

    status = 422
    title = "Input not acceptable"

    def __init__(self, problems: Sequence[Problem], *, more: bool = False) -> None:
        more = more or len(problems) > MAX_PROBLEMS
        problems = problems[:MAX_PROBLEMS]
        number = f"more than {len(problems)}" if more else str(len(problems))
        self._count = f"{number} {'problem' if number == '1' else 'problems'}"
        first = problems[0]
        location = f"row {first.row}: " if first.row is not None else ""
        super().__init__(f"The input has {self._count}. The first: {location}{first.detail}.")
        self.problems = tuple(problems)

    @property
    def detail_without_names(self) -> str:
        """The number of problems."""
        return f"The input has {self._count}."


class TooManyRows(FlaskmlError):
    """A body with more rows than one request may have."""

    status = 413
    title = "Too many rows"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"A request may have at most {limit:,} rows; split the rows over several requests, or raise the "
            "setting MAX_ROWS."
        )


class TooLarge(FlaskmlError):
    """A body with more bytes than the route accepts."""

    status = 413
    title = "Body too large"

    def __init__(self, limit: int, setting: str) -> None:
        remedy = "send a smaller file" if setting == "MAX_UPLOAD" else "send several smaller ones"
        super().__init__(
            f"The body may have at most {limit:,} bytes on this route; {remedy}, or raise the setting {setting}."
        )


class UnsupportedMediaType(FlaskmlError):
    """A declared content type or content encoding that the route does not accept."""

    status = 415
    title = "Unsupported media type"

    def __init__(self, declared: str, accepted: str) -> None:
        super().__init__(f"{declared[:100]} is not supported on this route; send {accepted}.")


class ModelNotFound(FlaskmlError):
    """A model name that the store does not have."""

    status = 404
    title = "No such model"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        hint = did_you_mean(name, known) or "; list all models with flask models list (GET /models)."
        super().__init__(f'There is no model "{name}"{hint}')


class VersionNotFound(FlaskmlError):
    """A version number that the model does not have."""

    status = 404
    title = "No such version"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f'Model "{name}" has no version {version}; list its versions with flask models show {name} '
            f"(GET /models/{name})."
        )


class InvalidName(FlaskmlError):
    """A text that is not a valid name of a model."""

    status = 422
    title = "Invalid name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f'"{name[:100]}" is not a valid model name; use at most 63 lowercase letters, digits, ".", "_" and "-", '
            "with a letter or a digit first."
        )


class InvalidAlias(FlaskmlError):
    """A text that is not a valid alias of a version."""

    status = 422
    title = "Invalid alias"

    def __init__(self, alias: str) -> None:
        super().__init__(
            f'"{alias[:100]}" is not a valid alias; use at most 63 lowercase letters, digits, ".", "_" and "-", with a '
            "letter or a digit first, and not only digits."
        )


class VersionNotServed(FlaskmlError):
    """A version that is not in memory, stored or not. A request never loads one: it would wait for the disk."""

    status = 404
    title = "Version not served"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f'Version {version[:20]} of "{name}" is not in memory; activate it, or give it an alias: '
            f"flask models alias {name} ALIAS {version[:20]}."
        )


class VersionInUse(FlaskmlError):
    """A version that cannot be deleted, because it answers requests."""

    status = 409
    title = "Version in use"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f'Version {version} of "{name}" is active or has an alias; first activate another version, and move or '
            "delete the alias."
        )


class NothingToRollBackTo(FlaskmlError):
    """A model without an earlier active version that is still stored."""

    status = 409
    title = "Nothing to roll back to"

    def __init__(self, name: str) -> None:
        super().__init__(
            f'"{name}" has no earlier active version that is still stored; activate a version by number instead: '
            f"flask models show {name} (GET /models/{name}) lists the versions."
        )


class VersionRejected(FlaskmlError):
    """A version that must not be activated, because its trial failed. The active version does not change.

    `is_active` is True if the rejected version is the active one: for example, its trial failed with other libraries.
    """

    status = 409
    title = "Version rejected"

    def __init__(self, name: str, version: str, reason: str, *, is_active: bool = False) -> None:
        unchanged = "" if is_active else "The active version has not changed. "
        super().__init__(
            f'Version {version} of "{name}" was rejected in its trial: {reason} {unchanged}'
            f"Publish a corrected version, or repeat the trial: flask models activate {name} {version}."
        )


class NotPublishable(FlaskmlError):
    """An estimator or a sample that cannot become a version."""

    status = 422
    title = "Not publishable"


class InvalidSchema(FlaskmlError):
    """A column that cannot be a feature, or a correction that does not fit its column."""

    status = 422
    title = "Invalid schema"


class MethodNotOffered(FlaskmlError):
    """A method that the estimator does not have."""

    status = 422
    title = "Method not offered"

    def __init__(self, method: str, offered: Sequence[str]) -> None:
        super().__init__(f'The model has no method "{method[:40]}"; available methods: {", ".join(offered)}.')


class NoActiveVersion(FlaskmlError):
    """A model that has no active version to answer with."""

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
    """A file of the instance folder that is missing, altered or not trusted. `file` is relative to that folder."""

    status = 503
    title = "Damaged model store"
    retry_after = 60

    def __init__(self, file: str, reason: str, name: str | None = None, remedy: str = "") -> None:
        remedy = remedy or f"Restore the file from a backup, or train a new version: {train_hint(name or 'default')}."
        super().__init__(f"{file}: {reason}. {remedy}")


class ModelUnavailable(FlaskmlError):
    """A model that cannot answer because of another error, `reason`."""

    status = 503
    title = "Model not available"
    retry_after = 60

    def __init__(self, reason: FlaskmlError, name: str, known: Sequence[str]) -> None:
        super().__init__(reason.detail + other_models_hint(name, known))


class RowsRefused(FlaskmlError):
    """Rows that match the schema but that the estimator rejects."""

    status = 422
    title = "Input not acceptable"

    def __init__(self) -> None:
        super().__init__(
            "The model cannot compute a result for these rows; check them for very large numbers, unknown texts and "
            "missing values."
        )


class AddressUnavailable(FlaskmlError):
    """An address that `flask serve` cannot listen on."""

    title = "Address not available"

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"Cannot listen on {address}: {reason}.")


class UnsupportedWaitress(FlaskmlError):
    """An installed waitress that `flask serve` does not support."""

    title = "Unsupported waitress"

    def __init__(self, installed: str, missing: Sequence[str]) -> None:
        lacks = f", which lacks {', '.join(missing)}" if missing else ""
        super().__init__(
            f"flask serve needs waitress 3, and waitress {installed} is installed{lacks}; "
            "run pip install 'waitress>=3.0.1,<4'."
        )


def train_hint(name: str) -> str:
    """Return the command that trains a version of the model."""
    return "flask train" if name == "default" else f"flask train --name {name}"


def other_models_hint(name: str, known: Sequence[str]) -> str:
    """Return a sentence that names the other models of the store, or an empty string if there are none."""
    others = [other for other in known if other != name]
    return f" The store holds: {', '.join(others[:20])} (setting MODEL_NAME selects one)." if others else ""


class Draining(FlaskmlError):
    """A server in graceful shutdown, which is no longer ready for new clients."""

    status = 503
    title = "Draining"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__(
            "This server is shutting down and only finishes the requests that it has accepted; use another server."
        )


class RegistryBusy(FlaskmlError):
    """A change of the registry during another one in the same process; waiting for the first would block a thread."""

    status = 503
    title = "Busy"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("Another change of the models is in progress in this process; retry when it has ended.")


class StorageFailed(FlaskmlError):
    """A write to the disk that failed; the active version does not change."""

    status = 507
    title = "Storage failed"

    def __init__(self, reason: str, folder: str = "instance folder") -> None:
        super().__init__(f"The {folder} cannot be written: {reason}. Free disk space or grant permission, then retry.")


class InvalidTraining(FlaskmlError):
    """A training specification or table that no model can be fitted to."""

    status = 422
    title = "Training not possible"


class JobNotFound(FlaskmlError):
    """A job id that the job database does not have."""

    status = 404
    title = "No such job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f'There is no job "{job_id}"; GET /jobs lists all jobs.')


class QueueFull(FlaskmlError):
    """A training job beyond the length of the queue."""

    status = 429
    title = "Too many jobs"
    retry_after = 30

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The queue is full: {limit} training jobs are waiting; retry when one has ended, or raise the setting "
            "TRAIN_QUEUE."
        )


class TokenRequired(FlaskmlError):
    """A state-changing request without a valid token, where tokens are configured."""

    status = 401
    title = "Token required"

    def __init__(self) -> None:
        super().__init__(
            "This route changes state: send the header Authorization: Bearer TOKEN; in a browser, enter the token as "
            "the password, with any user name."
        )


class AccessDenied(FlaskmlError):
    """A state-changing request from an origin or address that may not send one."""

    status = 403
    title = "Access denied"

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"This route changes state and {reason}. {remedy}".rstrip())


class MissingExtra(FlaskmlError):
    """An optional library that is needed and not installed."""

    title = "Missing extra"

    def __init__(self, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs an optional library: pip install 'flaskml[{extra}]'.")
