"""Export of fitted estimators to ONNX graphs in double precision."""
