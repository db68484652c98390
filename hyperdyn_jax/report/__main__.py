"""python -m hyperdyn_jax.report."""

from hyperdyn_jax.report import main

raise SystemExit(main())
