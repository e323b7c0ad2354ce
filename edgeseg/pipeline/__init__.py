"""The steps in order: checkpoint -> ONNX -> Q/DQ -> engine -> gate -> bench.

The only place where the rooms meet: `model` finds and opens what was typed, `floats` makes the
float network and the frames it is judged on, `quantise` makes it INT8, `export` builds and gates an
engine folder, `bench` measures, `quickstart` is all of it.
"""
