"""Entry point: `python study/run.py [STUDY]`, and the only script that `ray submit` uploads to a cluster."""

from study.commands.run import main

if __name__ == "__main__":
    raise SystemExit(main())
