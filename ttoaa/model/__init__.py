"""The decoder, and nothing that knows about experiments."""
