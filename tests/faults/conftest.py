"""Fixtures of the faults' tests."""

from tests.backbone import backbone

__all__ = ["backbone"]
