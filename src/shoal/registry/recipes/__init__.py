"""Environments of other packages: one small TOML file each, and the code that makes some of them."""

__all__ = []
