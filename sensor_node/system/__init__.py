"""This machine: files, processes, locks, the log, and text that others wrote."""
