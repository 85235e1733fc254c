"""`python -m fithubert`: the command without its script on the path, as under torchrun."""

from fithubert.cli import main

main()
