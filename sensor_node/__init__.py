"""Sensor Node: a store-and-forward telemetry agent for edge boxes."""

__version__ = "0.1.0"
