"""The results of a study: the MLflow record and the locations of all stores.

Reading order: stores, reader, writer, protocol, outcome, describe, environment.
"""
