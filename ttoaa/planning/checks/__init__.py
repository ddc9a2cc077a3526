"""Checks across the experiments of a plan, before a run is paid for."""
