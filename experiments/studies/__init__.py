"""What `handrail run experiment=NAME` can run: every module here is a study, found by its file name.

A study has `run(cfg: DictConfig, run: RunDirectory) -> None` and is configured by `conf/experiment/NAME.yaml`.
"""
