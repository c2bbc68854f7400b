"""Fitted estimators as ONNX graphs in double precision."""
