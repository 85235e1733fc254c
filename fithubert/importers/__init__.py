"""Teachers: frozen models of speech whose hidden states a student learns to predict.

Layer 0 is the input of the first transformer layer; layers 1..L are the outputs of the transformer layers.
"""
