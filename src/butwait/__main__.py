"""``python -m butwait`` is the ``butwait`` command."""

from butwait.cli.main import main

if __name__ == "__main__":
    main()
