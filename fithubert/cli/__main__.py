"""`python -m fithubert.cli`: the command where its script is not on the path, as under torchrun."""

from fithubert.cli import main

main()
