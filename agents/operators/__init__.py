"""Simulated people at a desk: an expert, operators with habits and slips, and their verdicts on suggestions."""
