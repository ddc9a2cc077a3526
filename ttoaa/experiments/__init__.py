"""One file per experiment: data, intervention, outcome, figure."""
