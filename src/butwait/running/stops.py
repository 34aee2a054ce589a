"""What a stop costs: what works in a run's folder goes on where it was, all else begins anew."""

_goes_on = False


def begin() -> None:
    """A command begins, of which nothing is kept yet."""
    global _goes_on
    _goes_on = False


def keep() -> None:
    """From here on the command keeps what it finishes, and finds it when it is given again."""
    global _goes_on
    _goes_on = True


def told() -> str:
    """What is said of a stop."""
    return "stopped; the same command goes on where it was" if _goes_on else "stopped"
