"""Fixtures of the workers' tests."""

from tests.backbone import backbone

__all__ = ["backbone"]
