import click


@click.command()
def adapt() -> None:
    "x"


@click.command()
def predict() -> None:
    "x"
