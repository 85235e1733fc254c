"""Building blocks of HuBERT's shape that teachers and students share; padding never changes their output."""
