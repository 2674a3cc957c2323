"""`python -m leanly` is the same as `leanly`."""

from leanly.cli.main import main

if __name__ == "__main__":
    main()
