"""Latency, accuracy, machine and the report."""
