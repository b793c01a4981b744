"""`python -m nst_exp.upload`: upload to MLflow what it lacks; see `nst_exp.commands.upload`."""

from nst_exp.__main__ import run

if __name__ == "__main__":
    run("upload")
