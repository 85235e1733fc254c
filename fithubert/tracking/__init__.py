"""MLflow runs, and a local record of the same: stages, their inputs and their results. Only this package uses MLflow.

A background thread with a bounded queue sends everything. A server that is down or slow costs one warning. The stage
continues, and its record in `.tracking/` is complete in any case.
"""
