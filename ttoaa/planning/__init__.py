"""Edits of the training stream: placement, the compiled plan, its audit."""
