"""A mosec server that batches requests for the estimator in one process; run as `mosec_server.py --port=PORT`.

The batches have at most 32 rows. mosec advises to wait less than a batch takes, in whole milliseconds: the least is 1.
"""

import msgspec
from given import FEATURES, estimator
from mosec import Server, ValidationError, Worker

Row = msgspec.defstruct("Row", [(name, float) for name in FEATURES])
decode = msgspec.json.Decoder(Row).decode


class Predictor(Worker):
    """The estimator; the whole body of a request is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.model = estimator()

    def deserialize(self, data: bytes) -> tuple[float, ...]:
        """Return the row of a body."""
        try:
            return msgspec.structs.astuple(decode(data))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValidationError(str(error)) from error

    def forward(self, data: list[tuple[float, ...]]) -> list[dict[str, float]]:
        """Return the estimator's predictions of a batch."""
        return [{"prediction": prediction} for prediction in self.model.predict(data).tolist()]

    def serialize(self, data: dict[str, float]) -> bytes:
        """Return the body of an answer."""
        return msgspec.json.encode(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predictor, max_batch_size=32, max_wait_time=1)
    server.run()
