"""Entry point: `python study/run.py [STUDY]`, and the script that `ray submit` uploads to a cluster by itself."""

from study.commands.console import leave
from study.commands.run import main

if __name__ == "__main__":
    leave(main())
