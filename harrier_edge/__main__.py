"""`python -m harrier_edge`."""

from harrier_edge.cli import program

program()
