"""Environments of other packages: one TOML file each, and the code that makes some of them."""

__all__ = []
