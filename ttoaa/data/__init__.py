"""Corpora: sources, tokenizers, shards, the training order, and the loader."""
