"""Keeps the worker processes alive; never opens the database and never speaks to the network."""
