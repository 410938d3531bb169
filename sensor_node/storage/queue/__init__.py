"""The readings between capture and delivery: claimed, settled, counted and given up."""
