"""Sections of ``scripts/benchmark.py`` and the plain implementation they measure against."""
