"""Adaptation to a new task from a few images: split, measure, train an adapter, measure again, report."""

from diception.training.few_shot.adapt import Adaptation, adapt
from diception.training.few_shot.pairs import open_folders
from diception.training.few_shot.report import FewShotReport

__all__ = ["Adaptation", "FewShotReport", "adapt", "open_folders"]
