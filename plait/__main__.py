"""`python -m plait` is `plait`."""

from plait.command import main

main()
