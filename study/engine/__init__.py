"""Carrying out a study: plan the missing trials, run them somewhere, record how they end.

A runner (`ray_tune`, or `local` in this process) runs the trials that a ledger hands out. The ledger asks the search
for trials, writes the record and informs a watcher, which decides nothing.

Reading order: plan, execute, ledger, runner, runners, ray_tune, local, worker, code; then estimation and report.
"""
