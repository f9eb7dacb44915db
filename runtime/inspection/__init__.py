"""From a picture to a verdict: preprocessing, backends, the golden check, the decision. Knows nothing of cameras, stores and stations."""
