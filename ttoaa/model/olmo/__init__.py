"""OLMo's own unsharded checkpoints: python -m ttoaa.model.olmo --help"""
