"""Looking at layers while they train: numbers, alarms, and more bits where it goes wrong."""

from nybble.watching.alarms import KINDS, Alarm
from nybble.watching.record import OPERANDS, Record, read_records
from nybble.watching.watch import AlarmError, Watch, watch

__all__ = [
    "KINDS",
    "OPERANDS",
    "Alarm",
    "AlarmError",
    "Record",
    "Watch",
    "read_records",
    "watch",
]
