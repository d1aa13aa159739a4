"""Confidence proxies: scores a policy gives its own suggestion, one file each, higher is surer.

A module `<name>.py` with `score(suggestion) -> float` is the entry `<name>`.
"""
