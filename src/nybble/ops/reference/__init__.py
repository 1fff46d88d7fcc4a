"""The reference backend: every Gemm as plain torch operators on decoded integer codes.

It runs on any device that torch runs on. `gemm.py` multiplies, `operand.py` quantises and keeps
codes for backward, `layer.py` puts a layer's forward and backward step together.
"""
