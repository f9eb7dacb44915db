"""What is wrong with this machine, and how to mend it: one small function a check, listed in ``command.CHECKS``."""
