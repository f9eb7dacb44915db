"""The same work by others: anomalib, trtexec."""
