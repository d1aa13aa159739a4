"""Processes as data: a folder of YAML is a domain (`handrail.envs.bpm.load` reads them)."""
