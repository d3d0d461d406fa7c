"""A study as data: its dimensions, its points, its files.

Reading order: study, dimensions, points, files, explain.
"""

from study.spec.files import build_spec, named_studies, read_study
from study.spec.points import ListedTrial, Point
from study.spec.study import StudySpec

__all__ = ["ListedTrial", "Point", "StudySpec", "build_spec", "named_studies", "read_study"]
