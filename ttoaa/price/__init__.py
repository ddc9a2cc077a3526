"""What a study will cost and what it can detect, before anything is prepared or trained."""
