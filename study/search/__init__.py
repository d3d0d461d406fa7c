"""The search: Optuna's ask and tell, points as Optuna parameters, and the Optuna study as a view of the record.

Reading order: search, parameters, view, store.
"""
