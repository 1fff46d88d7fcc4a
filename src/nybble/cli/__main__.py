"""`python -m nybble.cli`: the program where the `nybble` script is not on the path."""

from nybble.cli.app import run

if __name__ == "__main__":
    run()
