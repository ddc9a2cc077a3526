"""Multiple-choice benchmarks as cloze texts: their formats, and where they are read from."""
