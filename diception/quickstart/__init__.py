"""The quick start: the whole life cycle of a model on the tiny one, in minutes on a laptop, with a report."""

from diception.quickstart.stages import QuickstartSettings, run_quickstart

__all__ = ["QuickstartSettings", "run_quickstart"]
