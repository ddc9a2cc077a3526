"""Generated problems of grade-school arithmetic (iGSM: Ye et al., 2024), and their checking."""
