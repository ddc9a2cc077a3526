"""Step, optimizer and schedules, loop, checkpoints, metrics, ledger."""
