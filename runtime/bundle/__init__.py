"""What training hands over: a folder with a manifest, graphs and golden frames, every byte checked. Knows nothing of backends."""
