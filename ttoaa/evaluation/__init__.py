"""The evaluation job: what lacks, who is at it, and the loop that scores it."""
