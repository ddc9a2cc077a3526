"""Memory and time of a step on hardware that is not at hand, from its compiled HLO."""
