"""`python -m nst_exp.reproduce`: repeat a run from MLflow; see `nst_exp.commands.reproduce`."""

from nst_exp.__main__ import run

if __name__ == "__main__":
    run("reproduce")
