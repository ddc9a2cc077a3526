"""Tasks of lm-evaluation-harness on checkpoints: python -m ttoaa.harness --help"""
