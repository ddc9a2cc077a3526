"""Do experiments influence each other? Bursts of training from a checkpoint, and their effects."""
