"""Data: one file a source, one registry."""

from nybble.training.data.base import DataOptions, ImageData
from nybble.training.data.registry import SOURCES, load_data

__all__ = ["SOURCES", "DataOptions", "ImageData", "load_data"]
