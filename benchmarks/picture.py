"""placeholder"""


def draw() -> None:
    pass
