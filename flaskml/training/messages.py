"""The messages between a server and the child process of a training job, one line of JSON each."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from flaskml.settings import Settings
from flaskml.store.manifest import Score
from flaskml.training.trainer import TrainingSpec


class TrainingOrder(BaseModel):
    """What the child is to do."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    spec: TrainingSpec
    settings: Settings
    file: str | None = None
    file_name: str = ""


class TrainingMessage(BaseModel):
    """What the child tells: where it is, or how it ended."""

    model_config = ConfigDict(frozen=True)

    stage: str | None = None
    progress: float | None = None
    version: str | None = None
    score: Score | None = None
    failure: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the child has said all it had to say."""
        return self.version is not None or self.failure is not None
