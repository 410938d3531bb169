"""The worker processes: each runs one service, a step at a time."""
