"""The way to the sink: claim, send, settle."""
