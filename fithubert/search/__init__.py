"""Trials (short trainings with a probe), ablations, and the search for the front of quality against cost.

This is the only package that imports Optuna. Workers on any number of machines share a study through its database.
"""
