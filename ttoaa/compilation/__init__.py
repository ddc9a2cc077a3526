"""What a step would cost on hardware that is not there, read from its compiled HLO."""
