"""What runs on the device: picture in, verdict out. Imports no torch, no onnx and no package outside ``runtime``."""
