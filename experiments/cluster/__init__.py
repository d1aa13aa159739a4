"""Work past one process: rollouts, ingestion, scoring and training on Ray, with the results of one process."""
