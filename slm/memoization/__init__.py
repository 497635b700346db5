"""Memoization on disk: what took long to compute is not computed again."""

from slm.memoization.results import recall

__all__ = ["recall"]
