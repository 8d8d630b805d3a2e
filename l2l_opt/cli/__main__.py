"""``python -m l2l_opt.cli``."""

from l2l_opt.cli.main import main

main()
