"""`python -m diception`."""

from diception.cli import main

raise SystemExit(main())
