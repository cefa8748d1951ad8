"""The numpy behind the passes: no ONNX, no files, only arrays."""
