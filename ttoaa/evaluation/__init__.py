"""The evaluation job: missing tables, the jobs that share them, and the loop that scores them."""
