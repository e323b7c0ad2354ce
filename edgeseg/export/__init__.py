"""Checkpoint -> ONNX -> engine folders, and the accuracy gate."""
