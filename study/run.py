"""Entry point: `python study/run.py [STUDY]`, and the script that `ray submit` uploads to a cluster by itself."""

from study.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
