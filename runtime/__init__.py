"""The ground floor: bundle, preprocessing, backends, decision, sources and sinks. Imports no torch, no onnx, no other room."""
