"""The exported graph as onnx sees it: its parts, forms of lower precision, and what each form answers.

Knows nothing of calibration: ranges and eight bits are ``dskd.calibration``'s, which stands above.
"""
