"""From a trained run to a bundle, and from a bundle to an engine."""
