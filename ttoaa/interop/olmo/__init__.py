"""OLMo's own unsharded checkpoints: python -m ttoaa.interop.olmo --help"""
