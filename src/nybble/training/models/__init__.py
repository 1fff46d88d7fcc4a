"""Models for image classification: one file a family, one registry."""

from nybble.training.models.registry import MODELS, build_model

__all__ = ["MODELS", "build_model"]
