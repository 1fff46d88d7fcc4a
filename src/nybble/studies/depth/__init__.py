"""How gradients of few bits fare as networks get deeper: measured on one batch, without training.

chain       networks of equal blocks, with and without shortcuts, and data for them
gradients   what arrives at every block, of a network in float32 and of its converted copy
figures     cosine, shrinkage, norm ratio, error and bias of one against the other
study       all recipes x depths x seeds x batches, as one record
"""

from nybble.studies.depth.study import DepthConfig, measure_depth

__all__ = ["DepthConfig", "measure_depth"]
