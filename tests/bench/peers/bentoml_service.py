"""A BentoML service whose calls share batches."""

import bentoml
import numpy
from given import estimator


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Predictor:
    """One worker with the estimator."""

    def __init__(self) -> None:
        self.model = estimator()

    @bentoml.api(batchable=True)
    def predict(self, rows: numpy.ndarray) -> numpy.ndarray:
        """Return the estimator's predictions of the rows of several calls."""
        return self.model.predict(rows)
