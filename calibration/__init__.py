"""Lower precision that costs no accuracy: half floats, INT8 ranges, and the proof."""
