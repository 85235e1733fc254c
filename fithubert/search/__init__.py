"""The frontier of quality against cost: a study of short trials over many shapes. No other room knows Optuna.

Any number of processes on any number of machines work on one study; what they know of each other is in its storage.
"""
