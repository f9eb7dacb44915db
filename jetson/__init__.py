"""On the Jetson: what the device is, whether all is well, installation, updates and the fleet."""
