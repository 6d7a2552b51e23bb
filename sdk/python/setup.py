"""Packaging of the Python SDK: its own package, and the generated ones, which lie in gen/python of the tree."""

from pathlib import Path

from setuptools import find_packages, setup

GENERATED = Path("../../gen/python")

setup(
    packages=["tollway_sdk", *find_packages(str(GENERATED))],
    package_dir={name: str(GENERATED / name) for name in ("tollway", "buf")},
)
