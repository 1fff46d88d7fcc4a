"""The numbers behind the figures of `nybble figures`: each view is one function and one plain dict.

run              a short training run, step by step, and the output gradients of its layers
gradients        a layer's output gradient on a log axis, beside the grids it may be rounded to
rounding_factor  error and shrinkage of the log-nearest rule against its factor
batch_norm       what batch norm receives and passes on, in one phase and in two
gradscale        each layer's GradScale over the steps, and the gradients' maxima

A dict holds JSON values only and is a function of its configuration (for one machine, one number of
threads and one version of torch). Not done here: drawing, which is in `nybble.reports.views`.
"""

from nybble.studies.views.batch_norm import measure_batch_norm
from nybble.studies.views.gradients import measure_gradients
from nybble.studies.views.gradscale import measure_gradscale
from nybble.studies.views.rounding_factor import measure_rounding_factor
from nybble.studies.views.run import ViewConfig

__all__ = [
    "ViewConfig",
    "measure_batch_norm",
    "measure_gradients",
    "measure_gradscale",
    "measure_rounding_factor",
]
