"""``python -m deploy.certificates``."""

from deploy.certificates.command import main

main()
