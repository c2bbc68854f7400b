"""Starlette, orjson and onnxruntime with nothing checked: what is left when all that can be left out is."""

import gc

import numpy
import orjson
from given import FEATURES, session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

graph = session()
feed, output = graph.get_inputs()[0].name, graph.get_outputs()[0].name


async def predict(request: Request) -> Response:
    """Answer the graph's prediction."""
    features = orjson.loads(await request.body())
    row = numpy.array([[features[name] for name in FEATURES]], numpy.float32)
    prediction = graph.run([output], {feed: row})[0].item()
    return Response(orjson.dumps({"prediction": prediction}), media_type="application/json")


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
gc.collect()
gc.freeze()
