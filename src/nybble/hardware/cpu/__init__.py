"""One core of a CPU, described by what it was measured to do, and the check of such a description.

kernels.py             which measured row a Gemm belongs to
shapes.py, timing.py   what is probed, and how time is taken
probe_*.py, probes.py  the measurement: rows of a chip
describe.py            rows to a chip file
predict.py             a step's time from rows
measure.py             steps and layers, measured
validate.py            predictions first, then the measurement, and the bounds
"""
