"""What the commands of sensor-node-ctl do."""
