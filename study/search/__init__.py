"""The search: Optuna's ask and tell, points as Optuna parameters, and the stored Optuna study.

Reading order: search, parameters, store.
"""
