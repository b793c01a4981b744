"""`python -m nst_exp.run`: do one run, or a sweep with `-m`; see `nst_exp.commands.run`."""

from nst_exp.__main__ import run

if __name__ == "__main__":
    run("run")
