"""Checks across the experiments of a plan, before the run."""
