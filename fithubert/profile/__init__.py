"""The cost of a model: parameters, multiply-accumulates, latency, real-time factor, peak memory."""
