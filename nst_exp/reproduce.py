"""`python -m nst_exp.reproduce`: repeat a run that MLflow has; see `nst_exp.commands.reproduce`."""

from nst_exp.commands.reproduce import main

if __name__ == "__main__":
    main()
