"""OLMo's own unsharded checkpoints, and its token files as a corpus."""
