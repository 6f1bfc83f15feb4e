"""An aligner of phonemes and recordings."""
