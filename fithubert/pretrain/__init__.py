"""HuBERT pre-training: discrete units, masked prediction, and how good the units are."""
