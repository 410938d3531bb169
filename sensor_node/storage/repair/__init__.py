"""Damage: finding it, and reading what a damaged file still has. Not for the first day."""
