"""FastAPI with a model of the request and of the answer, and the estimator in an `async def`."""

from fastapi import FastAPI
from given import FEATURES, PREDICTION, estimator
from pydantic import BaseModel, create_model

Features = create_model("Features", **dict.fromkeys(FEATURES, (float, ...)))
model = estimator()
app = FastAPI()


class Answer(BaseModel):
    """The answer."""

    prediction: PREDICTION


@app.post("/predict")
async def predict(features: Features) -> Answer:
    """Answer the estimator's prediction."""
    row = [getattr(features, name) for name in FEATURES]
    return Answer(prediction=model.predict([row])[0])
