"""The commands: `study/run.py` runs a study, `python -m study` does everything else.

Reading order: run, options, help, main, layers, rlct, rlct_options, elsewhere, status, stop, retry, why; their output
is in views/.
"""
