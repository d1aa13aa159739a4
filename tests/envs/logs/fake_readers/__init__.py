"""Readers for the tests of ingestion; they take the place of `handrail.envs.logs.readers`."""
