"""Runnable studies and tools, thin: run, evaluate, curves, ingest, bench."""
