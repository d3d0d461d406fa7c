"""What to run and how it is carried: spec → plan → search → trials on Ray → the MLflow record.

Reading order: spec, space, plan, execute, search, trial, record, progress, cli.
"""
