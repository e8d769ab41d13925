"""The version, where it can be imported without the package's other names."""

__version__ = "0.1.0"
