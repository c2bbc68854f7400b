"""FastAPI with a model of the request and of the answer, and onnxruntime in an `async def`: what an expert writes."""

import numpy
from fastapi import FastAPI
from given import FEATURES, PREDICTION, session
from pydantic import BaseModel, create_model

Features = create_model("Features", **dict.fromkeys(FEATURES, (float, ...)))
graph = session()
feed, output = graph.get_inputs()[0].name, graph.get_outputs()[0].name
app = FastAPI()


class Answer(BaseModel):
    """The answer."""

    prediction: PREDICTION


@app.post("/predict")
async def predict(features: Features) -> Answer:
    """Answer the graph's prediction."""
    row = numpy.array([[getattr(features, name) for name in FEATURES]], numpy.float32)
    return Answer(prediction=graph.run([output], {feed: row})[0].item())
