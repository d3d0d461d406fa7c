"""`python -m study COMMAND`: everything but running a study, which is `study/run.py`."""

from study.commands.console import leave
from study.commands.main import main

if __name__ == "__main__":
    leave(main())
