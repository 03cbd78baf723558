"""Write both towers of a checkpoint as ONNX, and check them."""
