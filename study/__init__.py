"""What to run, and how it is run; the science is in trainables.

Subpackages; each may import those below it and none above:

- commands: the command line and what it shows
- engine: plan, run in this process or on Ray, record each trial
- search: Optuna's ask and tell
- record: the MLflow record and the locations of all stores
- spec: a study as data
"""
