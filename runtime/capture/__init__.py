"""Where pictures come from: image files, folders, videos, cameras; a thread for each camera. Knows nothing of bundles and verdicts."""
