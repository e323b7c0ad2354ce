"""Frames -> ranges -> one Q/DQ graph."""
