"""Trials: short trainings that tell students apart, for ablations and for the search over shapes."""
