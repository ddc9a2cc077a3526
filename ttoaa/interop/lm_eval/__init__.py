"""Run tasks of lm-evaluation-harness on checkpoints: python -m ttoaa.interop.lm_eval --help"""
