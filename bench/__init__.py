"""bearerproxy beside its peers, in one run: `scripts/bench`. Every figure is a ratio, because machines differ."""
