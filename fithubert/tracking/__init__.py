"""MLflow, and a local record of the same: what ran, on which inputs, with which result. No other room knows MLflow.

Everything is sent from a background thread with a bounded queue. A server that is down or slow costs one warning; the
stage goes on, and its record in `.tracking/` is complete either way.
"""
