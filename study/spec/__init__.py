"""A study as data: its dimensions, its trials, its files.

Reading order: study, dimensions, ranges, trials, checks, networks, files, explain.
"""

from study.spec.files import build_spec, named_studies, read_study
from study.spec.study import StudySpec

__all__ = ["StudySpec", "build_spec", "named_studies", "read_study"]
