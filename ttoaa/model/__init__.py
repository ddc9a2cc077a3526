"""The decoder and how it is computed and sharded; knows nothing of training or experiments."""
