"""Speed and energy of training on a machine that is described as data: see docs/hardware.md.

chip = get_chip("rapid-fp4")
found = estimate_network("resnet50", chip, "sun2020", batch=512)
found.seconds, found.joules, found.by("cause")
"""

from nybble.hardware.chip import Chip
from nybble.hardware.chip_file import chip_names, get_chip, parse_chip
from nybble.hardware.comparison import Comparison, Traced, compare, estimate_network, scaled
from nybble.hardware.cost import Cost, Estimate
from nybble.hardware.machine import estimate
from nybble.hardware.networks import NETWORKS, Network, get_network, network_names
from nybble.hardware.tasks import Task, Workload
from nybble.hardware.trace import trace_step
from nybble.hardware.workload import plan

__all__ = [
    "NETWORKS",
    "Chip",
    "Comparison",
    "Cost",
    "Estimate",
    "Network",
    "Task",
    "Traced",
    "Workload",
    "chip_names",
    "compare",
    "estimate",
    "estimate_network",
    "get_chip",
    "get_network",
    "network_names",
    "parse_chip",
    "plan",
    "scaled",
    "trace_step",
]
