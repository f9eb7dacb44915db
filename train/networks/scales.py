"""The three scales at which features are compared."""

from __future__ import annotations

STRIDES = (4, 8, 16)  # image pixels per position of the three feature maps
NORM_FLOOR = 1e-8  # of each vector, as torch's cosine_similarity has it: a dead position gives distance 1, gradient 0
