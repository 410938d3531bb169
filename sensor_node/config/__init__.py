"""The configuration: its options, its files, and where a node keeps its state."""
