"""What scripts/bench measures, a file each, and what those share."""
