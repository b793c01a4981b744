"""`python -m nst_exp.upload`: upload runs that MLflow lacks; see `nst_exp.commands.upload`."""

from nst_exp.__main__ import run

if __name__ == "__main__":
    run("upload")
