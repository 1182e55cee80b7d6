"""``python -m cnnaudit``: the command ``cnnaudit``, for where scripts are not on the path."""

from cnnaudit.cli import main

if __name__ == "__main__":
    main()
