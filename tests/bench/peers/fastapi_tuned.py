"""FastAPI and onnxruntime, tuned: no model of the answer, orjson, and a heap that is not looked through again."""

import gc

import numpy
import orjson
from fastapi import FastAPI, Response
from given import FEATURES, session
from pydantic import create_model

Features = create_model("Features", **dict.fromkeys(FEATURES, (float, ...)))
graph = session()
feed, output = graph.get_inputs()[0].name, graph.get_outputs()[0].name
app = FastAPI()


@app.post("/predict", response_model=None)
async def predict(features: Features) -> Response:
    """Answer the graph's prediction; the fields lie in the order of the features."""
    row = numpy.array([list(features.__dict__.values())], numpy.float32)
    prediction = graph.run([output], {feed: row})[0].item()
    return Response(orjson.dumps({"prediction": prediction}), media_type="application/json")


gc.collect()
gc.freeze()
