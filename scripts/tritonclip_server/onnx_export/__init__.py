"""Export of both towers of a checkpoint to ONNX, and its check against transformers."""
