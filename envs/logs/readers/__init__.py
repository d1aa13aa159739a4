"""Readers: one module a log format; its file name is the name of the source.

A module defines `class Reader`, which `handrail.envs.logs.ingest.Reader` describes. `conf/source/<name>.yaml` holds its
options.
"""
