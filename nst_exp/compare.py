"""`python -m nst_exp.compare`: compare the runs of a sweep; see `nst_exp.commands.compare`."""

from nst_exp.__main__ import run

if __name__ == "__main__":
    run("compare")
