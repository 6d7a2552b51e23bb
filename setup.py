"""Packaging: where the packages lie. Everything else stands in pyproject.toml.

They are found and not listed, so that a new sub-package cannot be left out of the wheel
(tests/house/test_packaging.py). pyproject.toml alone cannot say this: its `packages.find` knows no
package, such as tollway_migrations, whose folder has another name.
"""

from setuptools import find_packages, setup

# import name: (the folder that holds it, its own folder)
TOP_PACKAGES = {
    "billing": (".", "billing"),
    "server": (".", "server"),
    "workers": (".", "workers"),
    "cli": (".", "cli"),
    "queries": ("gen", "gen/queries"),
    "tollway": ("gen/python", "gen/python/tollway"),
    "buf": ("gen/python", "gen/python/buf"),
}

# Packages that hold files to read at run time.
FOLDERS_OF_FILES = {"tollway_migrations": "queries/migrations", "tollway_openapi": "gen/openapi"}


def below(name: str) -> list[str]:
    """The package called `name` and all packages in it."""
    return list(find_packages(TOP_PACKAGES[name][0], include=[name, f"{name}.*"]))


setup(
    packages=[package for name in TOP_PACKAGES for package in below(name)] + list(FOLDERS_OF_FILES),
    package_dir={name: folder for name, (_, folder) in TOP_PACKAGES.items()} | FOLDERS_OF_FILES,
)
