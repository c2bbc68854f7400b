"""A prediction by hand, from the bytes of a body to those of the answer: msgspec and onnxruntime, nothing else."""

import msgspec
import numpy
from given import FEATURES, PREDICTION, session

Row = msgspec.defstruct("Row", [(name, float) for name in FEATURES], gc=False)
Answer = msgspec.defstruct("Answer", [("prediction", PREDICTION), ("model", str), ("version", str)], gc=False)
decode = msgspec.json.Decoder(Row).decode
encode = msgspec.json.Encoder().encode
graph = session()
feed, outputs = graph.get_inputs()[0].name, [graph.get_outputs()[0].name]


def answer(body: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the answer: the graph's prediction, or what is wrong with the row."""
    try:
        row = msgspec.structs.astuple(decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return 422, encode({"detail": str(error)})
    prediction = graph.run(outputs, {feed: numpy.array([row], numpy.float32)})[0].item()
    return 200, encode(Answer(prediction, "default", "1"))
