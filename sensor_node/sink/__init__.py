"""The development sink: something to send to while trying things out."""
