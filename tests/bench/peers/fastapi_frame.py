"""FastAPI with a model of the request, and a pipeline of scikit-learn on a DataFrame."""

import pandas as pd
from fastapi import FastAPI
from given import FEATURES, KINDS, PREDICTION, estimator
from pydantic import BaseModel, create_model

Features = create_model("Features", **{name: (kind, ...) for name, kind in zip(FEATURES, KINDS, strict=True)})
model = estimator()
app = FastAPI()


class Answer(BaseModel):
    """The answer."""

    prediction: PREDICTION


@app.post("/predict")
async def predict(features: Features) -> Answer:
    """Answer the estimator's prediction."""
    return Answer(prediction=model.predict(pd.DataFrame([features.model_dump()]))[0])
