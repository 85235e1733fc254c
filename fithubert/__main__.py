"""`python -m fithubert`: the command without its script on the path."""

from fithubert.cli import main

main()
