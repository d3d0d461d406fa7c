"""The results of a study: the MLflow record and the locations of all stores.

Reading order: stores, reader, writer, lease, overview, protocol, outcome, describe, environment, journal.
"""
