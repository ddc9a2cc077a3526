"""Plan the edits of the training stream: items, placement, the compiled plan, checks and audit."""
