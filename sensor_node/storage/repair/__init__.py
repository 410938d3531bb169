"""Finds damage, and reads what a damaged file still has. A newcomer can skip it."""
