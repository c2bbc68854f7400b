"""The usual first Flask view: the model is global, the row is not validated."""

from flask import Flask, Response, jsonify, request
from given import FEATURES, estimator

app = Flask(__name__)
model = estimator()


@app.post("/predict")
def predict() -> Response:
    """Answer the estimator's prediction."""
    features = request.get_json()
    row = [features[name] for name in FEATURES]
    return jsonify(prediction=model.predict([row])[0].item())
